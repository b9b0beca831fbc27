//! Certificates: whom a client trusts, and who it says it is.
//!
//! `link/mqtt.rs` and `uplink/http.rs` call it. Always rustls with the ring provider: no C++ in the build, and the
//! same rules on every target. Without a `ca`, the system's authorities are trusted.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use super::SetupError;

/// The certificate authorities that a client trusts.
///
/// # Errors
/// The file cannot be read or holds no certificate; or the system has none.
pub fn authorities(ca: Option<&Path>) -> Result<Vec<CertificateDer<'static>>, SetupError> {
    let Some(path) = ca else {
        let found = rustls_native_certs::load_native_certs();
        if found.certs.is_empty() {
            let why = found.errors.first().map_or("none found".into(), ToString::to_string);
            return Err(SetupError::NoRoots(why));
        }
        return Ok(found.certs);
    };
    certificates("certificate authority", path)
}

/// What a client needs for TLS: authorities, and its own certificate where there is one.
///
/// # Errors
/// A file cannot be read or used, or only one of certificate and key is given.
pub fn client(
    ca: Option<&Path>,
    certificate: Option<&Path>,
    key: Option<&Path>,
) -> Result<Arc<ClientConfig>, SetupError> {
    let mut roots = RootCertStore::empty();
    let (_, refused) = roots.add_parsable_certificates(authorities(ca)?);
    if roots.is_empty() {
        let path = ca.unwrap_or(Path::new("")).to_owned();
        let why = format!("none of its {refused} certificates can be used");
        return Err(SetupError::Pem { what: "certificate authority", path, why });
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("invariant: ring has every suite of the default versions")
        .with_root_certificates(roots);
    let config = match (certificate, key) {
        (None, None) => builder.with_no_client_auth(),
        (Some(certificate), Some(key)) => {
            let chain = certificates("certificate", certificate)?;
            let private = PrivateKeyDer::from_pem_file(key).map_err(|e| pem("key", key, &e))?;
            builder.with_client_auth_cert(chain, private).map_err(|e| pem("key", key, &e))?
        }
        (Some(_), None) => {
            return Err(SetupError::Pair { present: "certificate", missing: "key" });
        }
        (None, Some(_)) => {
            return Err(SetupError::Pair { present: "key", missing: "certificate" });
        }
    };
    Ok(Arc::new(config))
}

fn certificates(
    what: &'static str,
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, SetupError> {
    let found = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|e| pem(what, path, &e))?;
    if found.is_empty() {
        let why = "it holds no PEM certificate".into();
        return Err(SetupError::Pem { what, path: path.to_owned(), why });
    }
    Ok(found)
}

fn pem(what: &'static str, path: &Path, why: &dyn std::fmt::Display) -> SetupError {
    SetupError::Pem { what, path: path.to_owned(), why: why.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_certificate_is_named_with_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let empty = dir.path().join("empty.pem");
        std::fs::write(&empty, "").unwrap();
        let garbled = dir.path().join("garbled.pem");
        std::fs::write(&garbled, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
            .unwrap();
        for path in [&empty, &garbled, &dir.path().join("missing.pem")] {
            let error = client(Some(path), None, None).unwrap_err().to_string();
            assert!(error.contains("certificate authority"), "{error}");
            assert!(error.contains(path.to_str().unwrap()), "{error}");
        }
    }
}
