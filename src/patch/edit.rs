//! The edits of a config that a [`Request`] asks for. `verify` makes the same edits to tell what was declared.

use crate::error::Result;
use crate::kong::{Version, listen, ports};
use crate::oci::config::{ImageConfig, Port};
use crate::patch::record::Request;
use crate::profile::PROFILES;

/// Makes the edits that `request` asks for, except for layers and history. Returns the variables that were set, each
/// `NAME=value`, and what the user should know.
pub fn edit_config(config: &mut ImageConfig, request: &Request) -> Result<(Vec<String>, Vec<String>)> {
    let mut warnings = Vec::new();
    for port in &request.unexpose {
        config.unexpose(&port.parse::<Port>()?)?;
    }
    for port in &request.expose {
        config.expose(&port.parse::<Port>()?)?;
    }
    let mut variables = Vec::new();
    if let Some((name, value)) = &request.listen {
        let value = listen_value(config, name, value, &mut warnings).map_err(|e| e.context(name))?;
        variables.push((name.clone(), value));
    }
    variables.extend(request.env.iter().map(|(name, value)| (name.clone(), value.clone())));
    for (name, value) in &variables {
        config.set_env(name, value)?;
    }
    for (name, value) in &request.labels {
        config.set_label(name, value)?;
    }
    if let Some(created) = &request.created {
        config.set_created(created)?;
    }
    Ok((variables.into_iter().map(|(name, value)| format!("{name}={value}")).collect(), warnings))
}

/// The value that was asked for, or the image's own with its ports made low; checked against the image's version.
fn listen_value(config: &ImageConfig, name: &str, asked: &str, warnings: &mut Vec<String>) -> Result<String> {
    let version_env = PROFILES.iter().find(|profile| profile.listen_env == Some(name)).and_then(|p| p.version_env);
    let version = match version_env.map(|name| config.env_value(name)).transpose()?.flatten() {
        Some(text) => text.parse::<Version>().ok(),
        None => None,
    };
    if version.is_none() {
        warnings.push(format!("the image does not say its version, so {name} was not checked against it"));
    }
    let value = match asked {
        "" => match config.env_value(name)? {
            Some(current) => ports::low_ports(&current)?,
            None => ports::low_ports(listen::default_listen(version.as_ref()))?,
        },
        value => value.to_owned(),
    };
    listen::parse(&value, version.as_ref())?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_of_an_earlier_version_is_followed_in_its_order() {
        let ports = ["81/tcp", "80/tcp"];
        let request = Request { expose: ports.map(str::to_owned).into(), ..Request::default() };
        let text = r#"{"os":"linux","architecture":"amd64","config":{},"rootfs":{"type":"layers","diff_ids":[]}}"#;
        let mut config = ImageConfig::parse(text.as_bytes()).unwrap();
        edit_config(&mut config, &request).unwrap();
        assert_eq!(config.exposed_ports().unwrap(), ports);
    }
}
