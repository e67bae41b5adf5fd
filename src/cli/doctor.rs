//! `capatch doctor`.

use super::{Common, explain};
use crate::error::Result;

/// Say what an error in a log means, and what to do
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Explain this text, one line or many, as a log has it; - is standard input
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    explain: String,
}

pub(super) fn run(arguments: &Arguments, common: &Common) -> Result<()> {
    explain::run(&arguments.explain, common)
}
