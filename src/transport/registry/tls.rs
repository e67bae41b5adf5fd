//! Whom to trust over TLS: what the system trusts, and what the user named for a host.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_name;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, SignatureScheme};
use x509_cert::Certificate;
use x509_cert::der::Decode;
use x509_cert::der::oid::db::rfc5280::{ANY_EXTENDED_KEY_USAGE, ID_KP_SERVER_AUTH};
use x509_cert::ext::pkix::ExtendedKeyUsage;

use super::Options;
use super::mirrors::Tls;
use super::origin::Origin;
use crate::error::{Error, Result};

/// What is trusted and shown at a host whose `certs.d` directory is `directory` and about which the user's files say `tls`.
pub(super) fn config(options: &Options, directory: Option<&Path>, tls: &Tls) -> Result<ClientConfig> {
    let mut files: Vec<PathBuf> = options.ca_file.iter().chain(&tls.authorities).cloned().collect();
    let mut own = tls.identity.clone();
    if let Some(directory) = directory {
        files.extend(with_extension(directory, "crt")?);
        let first = with_extension(directory, "cert")?.into_iter().next();
        own = own.or(first.map(|file| (file.clone(), file.with_extension("key"))));
    }
    let mut named = Vec::new();
    for file in &files {
        named.extend(certificates(file)?);
    }
    let failed = |e: rustls::Error| {
        Error::failed(format!("cannot set up TLS: {e}"))
            .hint("install ca-certificates, or name a file of authorities with --ca-file or SSL_CERT_FILE")
    };
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = match tls.skip_verify {
        true => Verifier { provider: provider.clone(), trusted: None, named },
        false => {
            let trusted = rustls_platform_verifier::Verifier::new_with_extra_roots(named.clone(), provider.clone());
            Verifier { provider: provider.clone(), trusted: Some(trusted.map_err(failed)?), named }
        }
    };
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(failed)?.dangerous().with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match own {
        Some((certificate, key)) => {
            let private = PrivateKeyDer::from_pem_slice(&read(&key)?)
                .map_err(|_| Error::failed(format!("{}: no private key in PEM form", key.display())))?;
            let unlike = |e: rustls::Error| match e {
                rustls::Error::InconsistentKeys(_) => {
                    Error::failed(format!("{} is not the key of {}", key.display(), certificate.display()))
                }
                e => Error::failed(format!("{} and {}: {e}", certificate.display(), key.display())),
            };
            builder.with_client_auth_cert(certificates(&certificate)?, private).map_err(unlike)?
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// The `certs.d` directory of a host, in the layout of Docker and Podman.
pub(super) fn directory(options: &Options, origin: &Origin) -> Option<PathBuf> {
    let parents = match &options.cert_dir {
        Some(directory) => vec![directory.clone()],
        None => ["/etc/containers/certs.d", "/etc/docker/certs.d"]
            .into_iter()
            .map(PathBuf::from)
            .chain(std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".config/containers/certs.d")))
            .collect(),
    };
    let bare = origin.host().to_string();
    let names = if origin.host_port() == format!("{bare}:443") {
        vec![bare.clone(), origin.host_port()]
    } else {
        vec![origin.host_port()]
    };
    parents.iter().flat_map(|parent| names.iter().map(|name| parent.join(name))).find(|path| path.is_dir())
}

fn with_extension(directory: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let io = |e: std::io::Error| Error::io(directory.display(), &e);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(io)? {
        let path = entry.map_err(io)?.path();
        if path.extension().is_some_and(|e| e == extension) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// The content of a file that the set-up names; that it is missing says nothing about what is asked for.
fn read(file: &Path) -> Result<Vec<u8>> {
    std::fs::read(file).map_err(|e| Error::failed(format!("{}: {e}", file.display())))
}

/// At least one.
fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let pem = read(file)?;
    match CertificateDer::pem_slice_iter(&pem).collect::<std::result::Result<Vec<_>, _>>() {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err(Error::failed(format!("{}: no certificate in PEM form", file.display()))),
    }
}

#[derive(Debug)]
struct Verifier {
    provider: Arc<CryptoProvider>,
    /// `None`: everybody is trusted.
    trusted: Option<rustls_platform_verifier::Verifier>,
    /// The authorities that the user named, which are among the trusted ones.
    named: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        let Some(trusted) = &self.trusted else { return Ok(ServerCertVerified::assertion()) };
        match trusted.verify_server_cert(end_entity, intermediates, name, ocsp_response, now) {
            // Many a private registry shows a self-signed certificate that calls itself an authority, as `openssl req -x509`
            // makes them; OpenSSL and Go take it once it is named. Its dates are looked at before that is found, its name and
            // purposes would be after.
            Err(error) if is_authority(&error) && self.named.contains(end_entity) => {
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, name)?;
                if !is_for_servers(end_entity).map_err(|_| CertificateError::BadEncoding)? {
                    return Err(CertificateError::InvalidPurpose.into());
                }
                Ok(ServerCertVerified::assertion())
            }
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        match &self.trusted {
            Some(trusted) => trusted.verify_tls12_signature(message, certificate, signature),
            None => Ok(HandshakeSignatureValid::assertion()),
        }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        match &self.trusted {
            Some(trusted) => trusted.verify_tls13_signature(message, certificate, signature),
            None => Ok(HandshakeSignatureValid::assertion()),
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Whether a certificate has no extended key usage, or one of servers (RFC 5280 §4.2.1.12).
fn is_for_servers(certificate: &CertificateDer<'_>) -> x509_cert::der::Result<bool> {
    let usage = Certificate::from_der(certificate)?.tbs_certificate().get_extension::<ExtendedKeyUsage>()?;
    let theirs = [ID_KP_SERVER_AUTH, ANY_EXTENDED_KEY_USAGE];
    Ok(usage.is_none_or(|(_, usage)| usage.0.iter().any(|purpose| theirs.contains(purpose))))
}

fn is_authority(error: &rustls::Error) -> bool {
    let rustls::Error::InvalidCertificate(CertificateError::Other(other)) = error else { return false };
    other.0.downcast_ref() == Some(&webpki::Error::CaUsedAsEndEntity)
}
