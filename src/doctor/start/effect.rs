//! Commands that make no difference to what is executed, and variables that loops set.

use super::script::{self, Command, Kind, List, literal};
use super::{Env, UNKNOWN};

/// Commands that execute nothing else and leave users and the program alone; whether the image has them does not matter.
const HARMLESS: [&str; 70] = [
    ":", "[", "alias", "awk", "basename", "cat", "cd", "chmod", "clear", "curl", "cut", "date", "declare", "df",
    "dirname", "disown", "du", "echo", "egrep", "env", "export", "false", "fgrep", "find", "getent", "grep", "hash",
    "head", "hostname", "id", "jq", "kill", "let", "local", "ls", "mkdir", "mkfifo", "mktemp", "nc", "openssl",
    "printf", "pwd", "readlink", "readonly", "realpath", "rmdir", "sed", "seq", "shopt", "sleep", "sort", "tail",
    "tee", "test", "times", "touch", "tr", "trap", "true", "type", "typeset", "ulimit", "umask", "uname", "wait", "wc",
    "wget", "which", "whoami", "xargs",
];

/// Whether `name` is a program that executes nothing else.
pub(super) fn is_harmless(name: &str) -> bool {
    HARMLESS.contains(&name)
}

/// Whether it makes no difference if the command runs.
pub(super) fn is_inert(command: &Command) -> bool {
    let all = |list: &List| list.iter().all(|item| is_inert(&item.command));
    if !command.writes.iter().all(|word| literal(word).is_some()) {
        return false;
    }
    match &command.kind {
        Kind::Simple { assignments, words } => {
            let name = words.first().and_then(literal);
            // Names of variables, and words that run commands themselves, make a difference.
            let plain =
                words.iter().flatten().all(|part| !matches!(part, script::Part::Output { .. } | script::Part::Pipe(_)));
            let harmless = name.is_some_and(|name| {
                !matches!(
                    name.as_str(),
                    "export" | "declare" | "local" | "readonly" | "typeset" | "env" | "xargs" | "tee"
                ) && (is_harmless(&name) || name == "rm" || name == "ln")
            });
            assignments.is_empty() && plain && harmless
        }
        Kind::Test(_) | Kind::Arithmetic => true,
        Kind::Group(list) | Kind::Subshell(list) => all(list),
        Kind::Pipeline { commands, .. } => commands.iter().all(is_inert),
        Kind::If { arms, otherwise } => arms.iter().all(|(a, b)| all(a) && all(b)) && all(otherwise),
        Kind::Case { arms, .. } => arms.iter().all(|arm| all(&arm.body)),
        Kind::Loop { condition, body } => all(condition) && all(body),
        Kind::For { .. } | Kind::Function { .. } => false,
    }
}

/// Whether a condition that does not hold now may hold later: that of `until nginx -t`, not that of `while false`.
pub(super) fn may_change(condition: &List) -> bool {
    condition.iter().any(|item| !matches!(item.command.kind, Kind::Test(_)))
}

/// Makes the variables unknown that the commands set.
pub(super) fn forget(list: &List, env: &mut Env) {
    for item in list {
        match &item.command.kind {
            Kind::Simple { assignments, words } => {
                for (name, _) in assignments {
                    env.variables.insert(name.clone(), UNKNOWN.to_string());
                }
                if words.first().and_then(literal).as_deref() == Some("read") {
                    for name in words.iter().skip(1).filter_map(literal).filter(|name| !name.starts_with('-')) {
                        env.variables.insert(name, UNKNOWN.to_string());
                    }
                }
            }
            Kind::If { arms, otherwise } => {
                arms.iter().for_each(|(condition, body)| {
                    forget(condition, env);
                    forget(body, env);
                });
                forget(otherwise, env);
            }
            Kind::Case { arms, .. } => arms.iter().for_each(|arm| forget(&arm.body, env)),
            Kind::Group(list) | Kind::For { body: list, .. } => forget(list, env),
            Kind::Loop { condition, body } => {
                forget(condition, env);
                forget(body, env);
            }
            _ => {}
        }
    }
}
