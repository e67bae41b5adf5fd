//! How Kong is started: its command line runs inside the same nginx that serves.
//!
//! `kong` and `kong-health` begin with `#!/usr/bin/env resty`, and `resty` (openresty/resty-cli) executes
//! `../nginx/sbin/nginx` beside itself. So `kong version` in a health check executes the program with the capability.

/// The nginx that the `resty` at this absolute path executes.
pub fn nginx_of_resty(resty: &str) -> String {
    let bin = resty.rsplit_once('/').map_or("", |(directory, _)| directory);
    let root = bin.rsplit_once('/').map_or("", |(directory, _)| directory);
    format!("{root}/nginx/sbin/nginx")
}

/// Whether `resty` with these arguments is a `kong` that goes on to start an nginx that serves.
pub fn starts_kong(args: &[String]) -> bool {
    let script = args.iter().position(|arg| arg.rsplit('/').next() == Some("kong"));
    let command =
        script.and_then(|at| args.get(at + 1..)).and_then(|rest| rest.iter().find(|arg| !arg.starts_with('-')));
    matches!(command.map(String::as_str), Some("start" | "restart" | "docker-start"))
}

/// Whether an nginx with these arguments serves; with some it only prints or sends a signal.
pub fn nginx_serves(args: &[String]) -> bool {
    !args.iter().any(|arg| matches!(arg.as_str(), "-v" | "-V" | "-t" | "-T" | "-h" | "-?" | "-s"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_known() {
        assert_eq!(nginx_of_resty("/usr/local/openresty/bin/resty"), "/usr/local/openresty/nginx/sbin/nginx");
        assert_eq!(nginx_of_resty("resty"), "/nginx/sbin/nginx");
        for (line, starts) in [
            ("/usr/local/bin/kong start", true),
            ("/usr/local/bin/kong -v start --vv", true),
            ("-I . /usr/bin/kong restart", true),
            ("/usr/local/bin/kong prepare -p start", false),
            ("/usr/local/bin/kong health", false),
            ("/usr/local/bin/kong-health", false),
            ("/usr/local/bin/kong", false),
            ("", false),
        ] {
            let args: Vec<String> = line.split(' ').map(str::to_owned).collect();
            assert_eq!(starts_kong(&args), starts, "{line}");
        }
        for (line, serves) in
            [("-p /usr/local/kong -c nginx.conf", true), ("", true), ("-v", false), ("-s quit", false)]
        {
            let args: Vec<String> = line.split(' ').map(str::to_owned).collect();
            assert_eq!(nginx_serves(&args), serves, "{line}");
        }
    }
}
