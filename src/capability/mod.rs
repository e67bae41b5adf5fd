//! Linux file capabilities as pure values: sets of capabilities, the text of setcap(8) and getcap(8), the bytes of the
//! extended attribute, and what becomes of a process that executes such a file.
//!
//! A [`FileCapabilities`] is read from text with `FromStr` (the whole grammar of cap_from_text(3)), printed as getcap(8)
//! prints it, and converted from and to the value of the attribute [`XATTR`] with [`FileCapabilities::decode`] and
//! [`FileCapabilities::encode`]. A [`Process`] that executes a [`Program`] gives what the kernel would make of it, or why the
//! kernel would refuse. Nothing here touches a file.

mod exec;
mod set;
mod text;
mod xattr;

pub use exec::{Executed, Network, Process, Program, Refusal};
pub use set::{Capability, CapabilitySet};
pub use xattr::{FileCapabilities, XATTR};
