//! Functions, and files that a script goes on with.

use super::script::Command;
use super::shell::{Flow, Frame, Status};
use super::{Env, Follower, UNKNOWN, fails, shown, unknown};
use crate::doctor::files;
use crate::error::Result;

/// Functions and files inside each other.
pub(super) const MAX_CALLS: u32 = 12;

impl Follower<'_, '_> {
    pub(super) fn call(
        &mut self,
        body: &Command,
        args: &[String],
        place: &str,
        frame: &mut Frame,
        env: &mut Env,
    ) -> Result<Flow> {
        if frame.depth > MAX_CALLS {
            return Ok(Flow::End(unknown(place, "functions call each other without end".to_owned())));
        }
        let outer = std::mem::replace(&mut frame.args, args.to_vec());
        frame.depth += 1;
        let flow = self.command(body, frame, env);
        frame.depth -= 1;
        frame.args = outer;
        Ok(match flow? {
            Flow::Return(status) => Flow::Next(status),
            Flow::Leave { .. } => Flow::Next(Status::True),
            other => other,
        })
    }

    /// `.` and `source`.
    pub(super) fn source(&mut self, args: &[String], place: &str, frame: &mut Frame, env: &mut Env) -> Result<Flow> {
        let Some(path) = args.first().filter(|path| !path.contains(UNKNOWN)) else {
            let what = args.first().map_or_else(String::new, |path| shown(path));
            return Ok(Flow::End(unknown(
                place,
                format!("it goes on with a file that is known only when it runs ({what})"),
            )));
        };
        if frame.depth > MAX_CALLS {
            return Ok(Flow::End(unknown(place, "files include each other without end".to_owned())));
        }
        let search = env.variables.get("PATH").cloned().unwrap_or_default();
        let Some((path, file)) = self.image.files.program(path, &search, &env.directory)? else {
            return Ok(Flow::End(fails(place, &format!("{path}: No such file or directory"))));
        };
        if !self.may_read(&path, &file) {
            return Ok(Flow::End(fails(place, &format!("{path}: Permission denied"))));
        }
        let Some(parsed) = self.image.files.script(&path, &file)? else {
            return Ok(Flow::End(unknown(place, format!("{path} is larger than {} KiB", files::MAX_TEXT >> 10))));
        };
        let list = match &*parsed {
            Ok(list) => list,
            Err(trouble) => {
                let place = format!("{path}:{}", trouble.line);
                return Ok(Flow::End(unknown(&place, format!("cannot follow {}", trouble.what))));
            }
        };
        let outer = (std::mem::replace(&mut frame.script, path), std::mem::replace(&mut frame.is_file, true));
        frame.depth += 1;
        let flow = self.list(list, frame, env);
        frame.depth -= 1;
        (frame.script, frame.is_file) = outer;
        Ok(match flow? {
            Flow::Return(status) => Flow::Next(status),
            other => other,
        })
    }
}
