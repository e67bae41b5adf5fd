//! What becomes of a process when it executes a program: capabilities(7), «Transformation of capabilities during execve()»
//! and «Capabilities and execution of programs by root»; the kernel's `security/commoncap.c` as of Linux 6.18.
//!
//! Not modelled: set-group-ID programs, tracing, security modules, nested user namespaces.

use std::fmt;

use super::{Capability, CapabilitySet, FileCapabilities};

/// The credentials of a process as far as execve(2), setresuid(2) and bind(2) ask for them: credentials(7).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Process {
    /// The real user ID, as the process sees it inside its user namespace.
    pub uid: u32,
    /// The effective user ID; it differs from the real one while a set-user-ID program runs. The saved one is the same.
    pub euid: u32,
    /// What it may put into effect.
    pub permitted: CapabilitySet,
    /// What it may pass on to files that have the same in their inheritable set.
    pub inheritable: CapabilitySet,
    /// What is in effect.
    pub effective: CapabilitySet,
    /// The limit of what files can add.
    pub bounding: CapabilitySet,
    /// What it passes on to programs without capabilities; always in both `permitted` and `inheritable`.
    pub ambient: CapabilitySet,
    /// `PR_SET_NO_NEW_PRIVS`, which Kubernetes sets for `allowPrivilegeEscalation: false` and Docker for `no-new-privileges`.
    pub no_new_privileges: bool,
    /// `SECBIT_NOROOT`: user 0 is a user like others.
    pub no_root: bool,
    /// `SECBIT_NO_SETUID_FIXUP`: capabilities stay when the user changes.
    pub no_setuid_fixup: bool,
    /// The user ID that root of its user namespace has outside of it; 0 in the first one, where nothing is mapped.
    pub root_id: u32,
}

/// A file that is executed.
///
/// Of a script it is the interpreter that counts, and of a symlink the file that it leads to: finding those is up to the
/// caller.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Program {
    /// The value of its extended attribute [`XATTR`](super::XATTR), if it has one.
    pub xattr: Option<Vec<u8>>,
    /// Its owner, if its mode has the set-user-ID bit and the process's user namespace knows both owner and group.
    pub set_user_id: Option<u32>,
    /// Whether it is on a mount with `nosuid`, or of a user namespace that the process's one is not inside of.
    pub nosuid: bool,
}

/// What execve(2) made of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Executed {
    /// Its credentials now.
    pub process: Process,
    /// `AT_SECURE` of getauxval(3): the dynamic linker and others ignore variables like `LD_LIBRARY_PATH`, `TMPDIR` and
    /// `SSL_CERT_FILE`.
    pub secure: bool,
}

/// Why the kernel refuses; shown in the words of strerror(3), which shells and runtimes print after the file's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// `EPERM`. From execve(2): the file's capabilities are to be in effect at once, and the process cannot get all of them.
    /// From setresuid(2): the process has no `cap_setuid` in effect.
    NotPermitted,
    /// `EINVAL`: the value of the attribute is malformed.
    Invalid,
}

/// A network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// `net.ipv4.ip_unprivileged_port_start`, which counts for IPv6 too: ports from this one up are free to all.
    pub unprivileged_port_start: u16,
    /// Whether it was made in the user namespace that the process is in. A container in a user namespace of its own does not
    /// own the network of the host.
    pub owned: bool,
}

impl Process {
    /// What containerd and CRI-O let `runc` execute the first program of a container as, whoever the user is: `capabilities`
    /// are its bounding, permitted and effective set (`process.capabilities` of the OCI runtime specification).
    pub fn of_container(uid: u32, capabilities: CapabilitySet, no_new_privileges: bool) -> Self {
        Process {
            uid,
            euid: uid,
            permitted: capabilities,
            effective: capabilities,
            bounding: capabilities,
            no_new_privileges,
            ..Process::default()
        }
    }

    /// The same for Docker's engine (`SetCapabilities` in moby), which gives users other than root the bounding set alone.
    pub fn of_docker_container(uid: u32, capabilities: CapabilitySet, no_new_privileges: bool) -> Self {
        let mut process = Process::of_container(uid, capabilities, no_new_privileges);
        if uid != 0 {
            process.permitted = CapabilitySet::EMPTY;
            process.effective = CapabilitySet::EMPTY;
        }
        process
    }

    /// execve(2).
    ///
    /// # Errors
    /// The process goes on as it was, and nothing was executed.
    pub fn exec(&self, program: &Program) -> Result<Executed, Refusal> {
        let file = self.capabilities_of(program)?;
        let mut new = Process { permitted: CapabilitySet::EMPTY, ..self.clone() };
        if let Some(owner) = program.set_user_id.filter(|_| !program.nosuid && !self.no_new_privileges) {
            new.euid = owner;
        }
        let mut effective = false;
        if let Some(file) = file {
            let inherited = self.inheritable.intersection(file.inheritable);
            new.permitted = self.bounding.intersection(file.permitted).union(inherited);
            effective = file.effective;
            // «Safety checking for capability-dumb binaries»; root is not excepted.
            if effective && !file.permitted.is_subset(new.permitted) {
                return Err(Refusal::NotPermitted);
            }
        }
        // A set-user-ID-root program with capabilities of its own gets those alone, unless root itself executes it.
        let own_alone = file.is_some() && new.euid == 0 && new.uid != 0;
        if !self.no_root && !own_alone {
            if new.euid == 0 || new.uid == 0 {
                new.permitted = self.bounding.union(self.inheritable);
            }
            effective |= new.euid == 0;
        }
        let user_changed = new.euid != self.euid;
        if self.no_new_privileges && !new.permitted.is_subset(self.permitted) {
            new.euid = new.uid;
            new.permitted = new.permitted.intersection(self.permitted);
        }
        if file.is_some() || user_changed {
            new.ambient = CapabilitySet::EMPTY;
        }
        new.permitted = new.permitted.union(new.ambient);
        new.effective = if effective { new.permitted } else { new.ambient };
        let more_than_ambient = effective || !new.permitted.is_subset(new.ambient);
        let secure = user_changed || new.euid != self.uid || (new.uid != 0 && more_than_ambient);
        Ok(Executed { process: new, secure })
    }

    /// What of a program's attribute counts for this process, without the capabilities that no kernel knows.
    fn capabilities_of(&self, program: &Program) -> Result<Option<FileCapabilities>, Refusal> {
        let Some(value) = program.xattr.as_ref().filter(|_| !program.nosuid) else {
            return Ok(None);
        };
        // Unlike execve(2), `decode` refuses unknown flags; setxattr(2) does too, so no file has them.
        let file = FileCapabilities::decode(value).map_err(|_| Refusal::Invalid)?;
        let counts = file.root_id == 0 || file.root_id == self.root_id;
        Ok(counts.then(|| FileCapabilities {
            permitted: file.permitted.intersection(CapabilitySet::NAMED),
            inheritable: file.inheritable.intersection(CapabilitySet::NAMED),
            ..file
        }))
    }

    /// What is left when the real, effective and saved user become `uid`, as by `su-exec`, `gosu` and `setpriv --reuid`:
    /// setresuid(2), and capabilities(7), «Effect of user ID changes on capabilities».
    ///
    /// # Errors
    /// [`Refusal::NotPermitted`] for a user that it is not, without `cap_setuid` in effect. Those programs also change
    /// groups, for which they need `cap_setgid`.
    pub fn set_user(&self, uid: u32) -> Result<Self, Refusal> {
        if !self.effective.contains(Capability::SETUID) && uid != self.uid && uid != self.euid {
            return Err(Refusal::NotPermitted);
        }
        let mut new = Process { uid, euid: uid, ..self.clone() };
        if self.no_setuid_fixup {
            return Ok(new);
        }
        if uid != 0 && (self.uid == 0 || self.euid == 0) {
            new.permitted = CapabilitySet::EMPTY;
            new.effective = CapabilitySet::EMPTY;
            new.ambient = CapabilitySet::EMPTY;
        }
        if uid == 0 && self.euid != 0 {
            new.effective = new.permitted;
        }
        Ok(new)
    }

    /// Whether bind(2) gives it this port of TCP or UDP, or answers `EACCES`, «Permission denied»: ip(7), `net/ipv4/af_inet.c`.
    pub fn may_bind(&self, port: u16, network: Network) -> bool {
        // Port 0 asks for any free one.
        port == 0
            || port >= network.unprivileged_port_start
            || (network.owned && self.effective.contains(Capability::NET_BIND_SERVICE))
    }
}

impl From<&FileCapabilities> for Program {
    /// A program with these capabilities, on a mount where they count.
    fn from(capabilities: &FileCapabilities) -> Self {
        Program { xattr: Some(capabilities.encode()), ..Program::default() }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Refusal::NotPermitted => "Operation not permitted",
            Refusal::Invalid => "Invalid argument",
        })
    }
}

#[cfg(test)]
mod tests;
