//! capatch puts a Linux file capability on a program inside an OCI image that already exists, or takes it away, and publishes
//! the result: no Dockerfile, no daemon, no root, no emulator for foreign architectures. It can prove that nothing else changed.
//!
//! This page is the architecture: read it first.
//!
//! # Bird's-eye view
//!
//! A user names a source and a destination. Data goes one way:
//!
//! ```text
//! reference → place (source) → index / manifest → find the file through the layers → merge or remove the capability
//!           → build one layer → edit the config → new manifest / index → place (destination) → tag, last and once
//! ```
//!
//! Network code is async and at the edge ([`transport`]). From a blob's stream on, everything is plain synchronous code
//! over [`std::io::Read`], bytes and values, run beside the async code by [`transport::blocking`].
//!
//! # Code map
//!
//! Each module imports only from those above it; `tests/architecture.rs` fails otherwise.
//!
//! - [`error`]: errors as sentences, each with a kind (the exit code) and perhaps a hint. [`progress`]: who is told how
//!   far the bytes have come.
//! - [`limits`]: what content may take up; whatever has to be in memory has a share of it.
//! - [`oci`]: the data model as pure values: digests, lossless JSON, media types, platforms, references, descriptors,
//!   manifests, configs.
//! - [`capability`]: Linux file capabilities as pure values: the text of setcap(8), the bytes of the extended attribute,
//!   and the rules of execve(2), which `tests/real/exec.rs` holds against the running kernel.
//! - [`blob`]: content that was hashed.
//! - [`archive`]: tar as a format: compression, frames and PAX records.
//! - [`layer`]: the merged view of many layers (`lookup` lazily from the top, `tree` wholly from the bottom; tests hold
//!   one against the other), and the one layer that we add.
//! - [`transport`]: where images live. `registry` is our own client for the distribution specification; `layout` is a
//!   directory; `archive` is one in a tar, or what `docker save` writes, from a file, a pipe or an engine (`docker`);
//!   `containerd` speaks gRPC on its socket; [`transport::Place`] is any of them. The only user of the
//!   network; knows no layer and no patch.
//! - [`image`]: an image at a place: manifest and config, and the tree of manifests below an index.
//! - [`copy`]: moves blobs and manifests between places. [`profile`]: what we know of an image by its kind: files,
//!   capability, ports. [`kong`]: what we know of Kong besides: versions, the grammar of its listen variables.
//!   [`kubernetes`]: manifests that run Kong, edited as raw text so that it has ports 80 and 443.
//! - [`patch`]: the use case. `plan` finds out what would change and makes the new content, `apply` stores it; `record`
//!   is what a patched image says about itself.
//! - [`validate`]: re-derives digests, sizes and diff IDs; compares an image with its base.
//! - [`doctor`]: will it start, will it bind: an image and the manifests that run it, followed through the kernel's rules.
//! - [`sync`]: many images from one file. `spec` is the file, `tasks` is what it comes to, `run` does it.
//! - [`cli`]: one file for each command. The only module that prints; `main` alone ends the process.
//!
//! # Invariants
//!
//! - **Raw bytes are the truth.** Documents are edited as ordered objects of raw members ([`oci::json`]); what is not
//!   edited keeps its bytes. Typed structs are views and are never serialised back.
//! - **A blob is believed only after its size and digest matched.** Headers are hints. A tag is resolved once; after
//!   that everything is named by digest.
//! - **Image content is never unpacked and never executed.** Layers are streamed, and memory does not grow with them. The
//!   file to be patched passes through an unnamed temporary file.
//! - **Tar is read by our own reader** over `tar::Header`: PAX records by their length, the last one wins, nothing is
//!   allocated on a header's word. gzip is read with `MultiGzDecoder` only.
//! - **The new layer repeats the file and its parent directories with exactly the metadata of the merged view.** Only
//!   `security.capability` differs: in revision 2, or gone.
//! - **Capabilities are merged**, not overwritten, unless the user says so.
//! - **The family follows the source**: Docker media types stay Docker's, OCI's stay OCI's.
//! - **Same input, same digest**, whatever the host, clock, locale or umask.
//! - **Children before parents; the destination's tag moves last**, in one request. Killed before, it names what it did.
//! - **Credentials belong to an origin.** One function decides every hop: redirects, token services, upload locations.
//! - **A patched image inherits no attestation** and says what it came from.
//! - **A parse failure is never «empty».** It is refused, nothing is published, nothing is left half-written.

#![warn(missing_docs)]
#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, clippy::print_stderr))]

pub mod archive;
pub mod blob;
pub mod capability;
pub mod cli;
pub mod copy;
pub mod doctor;
pub mod error;
pub mod image;
pub mod kong;
pub mod kubernetes;
pub mod layer;
pub mod limits;
pub mod oci;
pub mod patch;
pub mod profile;
pub mod progress;
pub mod sync;
pub mod transport;
pub mod validate;
