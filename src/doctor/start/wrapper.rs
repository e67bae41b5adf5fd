//! Programs that execute another one: what of their arguments is the other one.

/// What a program makes of its arguments.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wrapped {
    /// It executes nothing that we know of.
    Program,
    /// It executes this with these variables besides, or with no others if `clear`.
    Command {
        env: Vec<(String, String)>,
        clear: bool,
        unset: Vec<String>,
        directory: Option<String>,
        command: Vec<String>,
    },
    /// It executes this as a user, written as in `USER` of the image config.
    User { user: String, command: Vec<String> },
}

/// Programs without an effect on users and capabilities, and their options that take a value in the next argument.
const TRANSPARENT: [(&str, &[&str]); 14] = [
    ("tini", &["-p", "-e"]),
    ("tini-static", &["-p", "-e"]),
    ("docker-init", &["-p", "-e"]),
    ("dumb-init", &["-r", "--rewrite"]),
    ("catatonit", &[]),
    ("nice", &["-n", "--adjustment"]),
    ("ionice", &["-c", "-n", "--class", "--classdata"]),
    ("chrt", &[]),
    ("nohup", &[]),
    ("setsid", &[]),
    ("stdbuf", &["-i", "-o", "-e"]),
    ("time", &["-f", "-o"]),
    ("timeout", &["-s", "-k", "--signal", "--kill-after"]),
    ("taskset", &[]),
];

/// Whether `name` is a program that executes others as its configuration says, not its arguments.
pub(super) fn supervises(name: &str) -> bool {
    matches!(
        name,
        "supervisord"
            | "s6-svscan"
            | "s6-overlay-suexec"
            | "preinit"
            | "runsvdir"
            | "runit"
            | "runit-init"
            | "my_init"
            | "systemd"
            | "openrc-init"
            | "circusd"
            | "monit"
            | "dinit"
            | "horust"
            | "pebble"
            | "overmind"
            | "honcho"
    )
}

/// Positional arguments in front of the command.
fn positional(name: &str) -> usize {
    usize::from(matches!(name, "timeout" | "chrt" | "taskset"))
}

/// What `name` executes.
///
/// # Errors
/// Why it cannot be told.
pub(super) fn unwrap(name: &str, args: &[String]) -> Result<Wrapped, String> {
    if let Some((_, valued)) = TRANSPARENT.iter().find(|(known, _)| *known == name) {
        let rest = args.get(options(args, valued) + positional(name)..).unwrap_or_default();
        return command(Vec::new(), rest);
    }
    match name {
        "env" => environment(args),
        "su-exec" | "gosu" | "setuidgid" | "s6-setuidgid" => match args.split_first() {
            Some((user, rest)) => user_command(user, rest),
            None => Ok(Wrapped::Program),
        },
        "chpst" => {
            let rest = args.get(options(args, &["-u", "-U", "-e", "-n"])..).unwrap_or_default();
            match value(args, &["-u"]) {
                Some(user) => user_command(&user, rest),
                None => command(Vec::new(), rest),
            }
        }
        "sudo" => {
            let rest = args.get(options(args, &["-u", "-g", "--user", "--group"])..).unwrap_or_default();
            user_command(&value(args, &["-u", "--user"]).unwrap_or_else(|| "root".to_owned()), rest)
        }
        "setpriv" => setpriv(args),
        "capsh" | "unshare" | "nsenter" | "bwrap" => Err(format!("{name} changes what it may do")),
        "chroot" => chroot(args),
        "su" | "runuser" => su(args),
        _ => Ok(Wrapped::Program),
    }
}

fn command(env: Vec<(String, String)>, rest: &[String]) -> Result<Wrapped, String> {
    match rest {
        [] => Ok(Wrapped::Program),
        rest => Ok(Wrapped::Command { env, clear: false, unset: Vec::new(), directory: None, command: rest.to_vec() }),
    }
}

fn user_command(user: &str, rest: &[String]) -> Result<Wrapped, String> {
    match rest {
        [] => Ok(Wrapped::Program),
        rest => Ok(Wrapped::User { user: user.to_owned(), command: rest.to_vec() }),
    }
}

/// How many arguments at the start are options.
fn options(args: &[String], valued: &[&str]) -> usize {
    let mut at = 0;
    while let Some(arg) = args.get(at).filter(|arg| arg.starts_with('-') && arg.len() > 1) {
        at += 1;
        if arg == "--" {
            break;
        }
        at += usize::from(valued.contains(&arg.as_str()));
    }
    at.min(args.len())
}

/// The value of the option with one of these names: `-u V`, `-uV`, `--user V`, `--user=V`.
fn value(args: &[String], names: &[&str]) -> Option<String> {
    for (at, arg) in args.iter().enumerate().take_while(|(_, arg)| *arg != "--") {
        for name in names {
            let Some(rest) = arg.strip_prefix(name) else { continue };
            match (rest, name.starts_with("--")) {
                ("", _) => return args.get(at + 1).cloned(),
                (rest, true) if rest.starts_with('=') => return Some(rest[1..].to_owned()),
                (rest, false) => return Some(rest.to_owned()),
                _ => {}
            }
        }
    }
    None
}

fn environment(args: &[String]) -> Result<Wrapped, String> {
    let mut at = 0;
    let mut words: Vec<String> = Vec::new();
    let (mut clear, mut unset, mut directory) = (false, Vec::new(), None);
    while let Some(arg) = args.get(at).filter(|arg| arg.starts_with('-')) {
        at += 1;
        match arg.as_str() {
            "--" => break,
            "-i" | "-" | "--ignore-environment" => {
                clear = true;
            }
            "-u" | "--unset" => {
                unset.extend(args.get(at).cloned());
                at += 1;
            }
            "-C" | "--chdir" => {
                directory = args.get(at).cloned();
                at += 1;
            }
            _ => {
                let Some(text) = arg.strip_prefix("-S").or_else(|| arg.strip_prefix("--split-string=")) else {
                    continue;
                };
                let text = if text.is_empty() { args.get(at).map_or("", String::as_str) } else { text };
                at += usize::from(matches!(arg.as_str(), "-S"));
                words.extend(text.split_whitespace().map(str::to_owned));
                break;
            }
        }
    }
    words.extend(args.get(at..).unwrap_or_default().iter().cloned());
    let is_assignment = |word: &&String| word.contains('=') && !word.starts_with('=');
    let count = words.iter().take_while(is_assignment).count();
    let rest = words.split_off(count);
    let pairs = words.iter().filter_map(|word| word.split_once('='));
    let env = pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    match rest.is_empty() {
        true => Ok(Wrapped::Program),
        false => Ok(Wrapped::Command { env, clear, unset, directory, command: rest }),
    }
}

fn setpriv(args: &[String]) -> Result<Wrapped, String> {
    const VALUED: [&str; 10] = [
        "--reuid",
        "--ruid",
        "--euid",
        "--regid",
        "--rgid",
        "--egid",
        "--groups",
        "--inh-caps",
        "--ambient-caps",
        "--bounding-set",
    ];
    let count = options(args, &VALUED);
    let (given, rest) = args.split_at(count);
    let changes = ["--no-new-privs", "--nnp", "--inh-caps", "--ambient-caps", "--bounding-set", "--securebits"];
    if let Some(option) = given.iter().find(|arg| changes.iter().any(|change| arg.starts_with(change))) {
        return Err(format!("setpriv {option} changes what it may do"));
    }
    match value(given, &["--reuid", "--euid"]) {
        Some(user) => user_command(&user, rest),
        None => command(Vec::new(), rest),
    }
}

fn chroot(args: &[String]) -> Result<Wrapped, String> {
    let count = options(args, &["--userspec", "--groups"]);
    let Some((directory, rest)) = args.get(count..).and_then(<[String]>::split_first) else {
        return Ok(Wrapped::Program);
    };
    if directory != "/" {
        return Err(format!("it goes on in another root directory ({directory})"));
    }
    match value(args.get(..count).unwrap_or_default(), &["--userspec"]) {
        Some(user) => user_command(&user, rest),
        None => command(Vec::new(), rest),
    }
}

fn su(args: &[String]) -> Result<Wrapped, String> {
    let text = value(args, &["-c", "--command"]);
    let valued = ["-c", "--command", "-s", "--shell", "-u", "--user", "-g", "--group", "-G", "--supp-group"];
    let mut plain = Vec::new();
    let mut at = 0;
    while let Some(arg) = args.get(at) {
        at += 1;
        if arg == "--" {
            plain.extend(args.get(at..).unwrap_or_default().iter().cloned());
            break;
        }
        if valued.contains(&arg.as_str()) {
            at += 1;
        } else if !arg.starts_with('-') {
            plain.push(arg.clone());
        }
    }
    let named = value(args, &["-u", "--user"]);
    let user = named.clone().or_else(|| plain.first().cloned()).unwrap_or_else(|| "root".to_owned());
    let rest = if named.is_some() { &plain[..] } else { plain.get(1..).unwrap_or_default() };
    match text {
        Some(text) => {
            let shell = value(args, &["-s", "--shell"]).unwrap_or_else(|| "/bin/sh".to_owned());
            let mut command = vec![shell, "-c".to_owned(), text];
            command.extend(rest.iter().cloned());
            user_command(&user, &command)
        }
        None if named.is_some() => user_command(&user, rest),
        None => Err("it goes on with a login shell".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_executed_is_found() {
        let words = |text: &str| text.split(' ').filter(|w| !w.is_empty()).map(str::to_owned).collect::<Vec<_>>();
        for (line, user, expected) in [
            ("tini -- nginx -g x", "", "nginx -g x"),
            ("tini -g -p SIGTERM nginx", "", "nginx"),
            ("dumb-init -r 15:3 --single-child nginx", "", "nginx"),
            ("catatonit nginx -v", "", "nginx -v"),
            ("env A=1 B=2 nginx C=3", "", "nginx C=3"),
            ("env -u A -S nginx -v", "", "nginx -v"),
            ("env -i A=1 nginx -v", "", "nginx -v"),
            ("env --chdir /x nginx -v", "", "nginx -v"),
            ("nice -n 5 nginx", "", "nginx"),
            ("timeout -s KILL 5 nginx", "", "nginx"),
            ("su-exec kong nginx -p x", "kong", "nginx -p x"),
            ("gosu 1000:1000 nginx", "1000:1000", "nginx"),
            ("chpst -u kong nginx", "kong", "nginx"),
            ("sudo -E -u kong nginx", "kong", "nginx"),
            ("setpriv --reuid=kong --init-groups nginx", "kong", "nginx"),
            ("setpriv --reuid kong --regid 0 --clear-groups -- nginx", "kong", "nginx"),
            ("setpriv --regid 0 nginx", "", "nginx"),
            ("chroot --userspec=kong:kong / nginx", "kong:kong", "nginx"),
            ("runuser -u kong -- nginx -x", "kong", "nginx -x"),
            ("su kong -s /bin/bash -c nginx", "kong", "/bin/bash -c nginx"),
            ("su -c nginx", "root", "/bin/sh -c nginx"),
        ] {
            let line = words(line);
            let (found, command) = match unwrap(&line[0], &line[1..]) {
                Ok(Wrapped::User { user, command }) => (user, command),
                Ok(Wrapped::Command { command, .. }) => (String::new(), command),
                other => panic!("{line:?}: {other:?}"),
            };
            assert_eq!((found.as_str(), command), (user, words(expected)), "{line:?}");
        }
        for line in ["tini", "env", "su-exec kong", "nginx", "gosu"] {
            let line = words(line);
            assert_eq!(unwrap(&line[0], &line[1..]), Ok(Wrapped::Program), "{line:?}");
        }
        for line in ["setpriv --no-new-privs nginx", "chroot /x nginx", "su kong"] {
            let line = words(line);
            assert!(unwrap(&line[0], &line[1..]).is_err(), "{line:?}");
        }
    }
}
