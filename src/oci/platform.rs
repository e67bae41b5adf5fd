//! Platforms: operating system, architecture, variant.
//!
//! Source: image-spec `image-index.md`, "platform"; containerd's `platforms` for the normal forms.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;

use crate::error::{Error, Result};

/// What an image runs on. Compare with [`Platform::matches`]: `arm64` and `arm64/v8` are one platform.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
pub struct Platform {
    /// `linux`, `windows`, …
    pub os: String,
    /// `amd64`, `arm64`, …: Go's names.
    pub architecture: String,
    /// `v7`, `v8`, …
    #[serde(default)]
    pub variant: Option<String>,
    /// The Windows build that the image needs.
    #[serde(default, rename = "os.version")]
    pub os_version: Option<String>,
}

impl Platform {
    /// The variant in its normal form: named for `arm` always, for the others only if it is not the first one.
    fn normal_variant(&self) -> Option<&str> {
        match (self.architecture.as_str(), self.variant.as_deref().filter(|v| !v.is_empty())) {
            ("arm", None) => Some("v7"),
            ("arm64", Some("v8")) | ("amd64", Some("v1")) => None,
            (_, variant) => variant,
        }
    }

    /// Its normal form: two that ask for the same are equal.
    pub fn normal(&self) -> Platform {
        let variant = self.normal_variant().map(str::to_owned);
        Platform { os: self.os.to_ascii_lowercase(), variant, ..self.clone() }
    }

    /// Whether an image for `self` is what somebody who asks for `wanted` means.
    pub fn matches(&self, wanted: &Platform) -> bool {
        self.os.eq_ignore_ascii_case(&wanted.os)
            && self.architecture == wanted.architecture
            && self.normal_variant() == wanted.normal_variant()
            && wanted.os_version.as_ref().is_none_or(|v| self.os_version.as_ref() == Some(v))
    }

    /// Whether it has file capabilities: no other system does.
    pub fn is_linux(&self) -> bool {
        self.os.eq_ignore_ascii_case("linux")
    }

    /// BuildKit's mark for attestation manifests.
    pub fn is_unknown(&self) -> bool {
        self.os == "unknown" && self.architecture == "unknown"
    }
}

impl FromStr for Platform {
    type Err = Error;

    /// `os/architecture` or `os/architecture/variant`, with the usual other names of an architecture (`x86_64`, `aarch64`).
    fn from_str(text: &str) -> Result<Self> {
        let parts: Vec<&str> = text.split('/').collect();
        let valid =
            |part: &&str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
        if !(2..=3).contains(&parts.len()) || !parts.iter().all(valid) {
            return Err(Error::usage(format!("'{text}' is not a platform"))
                .hint("write os/architecture or os/architecture/variant, such as linux/amd64 or linux/arm/v7"));
        }
        let (architecture, implied) = match parts[1].to_ascii_lowercase().as_str() {
            "x86_64" | "x86-64" => ("amd64".to_owned(), None),
            "aarch64" => ("arm64".to_owned(), None),
            "armhf" => ("arm".to_owned(), Some("v7".to_owned())),
            "armel" => ("arm".to_owned(), Some("v6".to_owned())),
            "i386" | "i686" | "x86" => ("386".to_owned(), None),
            other => (other.to_owned(), None),
        };
        let variant = parts.get(2).map(|v| v.to_ascii_lowercase()).or(implied);
        Ok(Platform { os: parts[0].to_ascii_lowercase(), architecture, variant, os_version: None })
    }
}

/// A name that may not be there, as containerd shows it.
fn known(name: &str) -> &str {
    if name.is_empty() { "unknown" } else { name }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.os.is_empty() && self.architecture.is_empty() {
            return f.write_str("unknown platform");
        }
        write!(f, "{}/{}", known(&self.os), known(&self.architecture))?;
        if let Some(variant) = self.variant.as_deref().filter(|v| !v.is_empty()) {
            write!(f, "/{variant}")?;
        }
        match &self.os_version {
            Some(version) => write!(f, " ({version})"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_match_by_their_normal_form() {
        for (one, other, same) in [
            ("linux/arm64", "linux/arm64/v8", true),
            ("linux/aarch64", "linux/arm64", true),
            ("linux/arm", "linux/arm/v7", true),
            ("linux/arm/v6", "linux/arm/v7", false),
            ("linux/amd64", "linux/amd64/v1", true),
            ("linux/amd64", "linux/amd64/v3", false),
            ("linux/x86_64", "linux/amd64", true),
            ("linux/amd64", "windows/amd64", false),
        ] {
            let parse = |text: &str| text.parse::<Platform>().unwrap();
            assert_eq!(parse(one).matches(&parse(other)), same, "{one} {other}");
            assert_eq!(parse(one).normal() == parse(other).normal(), same, "{one} {other}");
        }
        // Windows has many images of one architecture.
        let of = |version: Option<&str>| Platform {
            os_version: version.map(str::to_owned),
            ..Platform::from_str("windows/amd64").unwrap()
        };
        for (one, wanted, same) in
            [(Some("10.0.1"), None, true), (Some("10.0.1"), Some("10.0.2"), false), (None, Some("10.0.1"), false)]
        {
            assert_eq!(of(one).matches(&of(wanted)), same, "{one:?} {wanted:?}");
        }
        let bare =
            |os: &str, architecture: &str| Platform { os: os.into(), architecture: architecture.into(), ..of(None) };
        for (os, architecture, shown, is_linux) in [
            ("", "", "unknown platform", false),
            ("", "amd64", "unknown/amd64", false),
            ("linux", "", "linux/unknown", true),
            ("Linux", "amd64", "Linux/amd64", true),
            ("linuxkit", "amd64", "linuxkit/amd64", false),
        ] {
            let platform = bare(os, architecture);
            assert_eq!((platform.to_string().as_str(), platform.is_linux()), (shown, is_linux));
        }
        let (upper, lower) = (bare("Linux", "amd64"), bare("linux", "amd64"));
        assert!(upper.matches(&lower) && lower.matches(&upper) && upper.normal() == lower);
        for bad in ["", "linux", "linux/", "/amd64", "linux/amd64/v1/x", "linux/a b", "all"] {
            assert!(bad.parse::<Platform>().is_err(), "{bad}");
        }
    }
}
