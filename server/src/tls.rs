//! TLS by rustls, from the files that -o ssl_chain_cert, ssl_key and ssl_ca_cert name.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use parking_lot::RwLock;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection};

use crate::options::Options;

/// The certificates in use, which can be read again while connections go on.
pub(crate) struct Tls {
    options: Options,
    current: RwLock<(Arc<ServerConfig>, Instant)>,
}

impl Tls {
    pub(crate) fn load(options: &Options) -> Result<Tls> {
        Ok(Tls { options: options.clone(), current: RwLock::new((Arc::new(read(options)?), Instant::now())) })
    }

    /// Reads the files again. What is in use stays if they are bad.
    pub(crate) fn refresh(&self) -> Result<()> {
        let fresh = Arc::new(read(&self.options)?);
        *self.current.write() = (fresh, Instant::now());
        Ok(())
    }

    pub(crate) fn secs_since_refresh(&self) -> u64 {
        self.current.read().1.elapsed().as_secs()
    }

    /// The server's side of a new connection.
    pub(crate) fn accept(&self) -> Result<ServerConnection> {
        Ok(ServerConnection::new(Arc::clone(&self.current.read().0))?)
    }
}

fn read(options: &Options) -> Result<ServerConfig> {
    let chain = options.tls_chain.as_ref().context("-Z: name the certificate with -o ssl_chain_cert=FILE")?;
    let key = options.tls_key.as_ref().context("-Z: name its key with -o ssl_key=FILE")?;
    let certificates = certificates(chain).with_context(|| format!("-o ssl_chain_cert={chain}"))?;
    let key_der = PrivateKeyDer::from_pem_file(key).with_context(|| format!("-o ssl_key={key}"))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions: &[_] = if options.tls_min_version == 3 {
        &[&rustls::version::TLS13]
    } else {
        &[&rustls::version::TLS12, &rustls::version::TLS13]
    };
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_protocol_versions(versions)?;
    let builder = match (options.tls_verify, &options.tls_ca) {
        (0, _) => builder.with_no_client_auth(),
        (_, None) => bail!("-o ssl_verify_mode: name the authority with -o ssl_ca_cert=FILE"),
        (mode, Some(file)) => {
            let mut roots = RootCertStore::empty();
            let (added, _) = roots
                .add_parsable_certificates(self::certificates(file).with_context(|| format!("-o ssl_ca_cert={file}"))?);
            if added == 0 {
                bail!("-o ssl_ca_cert={file}: no certificate in it can be used");
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            let verifier = if mode == 1 { verifier.allow_unauthenticated() } else { verifier };
            builder.with_client_cert_verifier(verifier.build()?)
        }
    };
    builder.with_single_cert(certificates, key_der).with_context(|| format!("{chain} and {key} do not belong together"))
}

fn certificates(file: impl AsRef<Path>) -> Result<Vec<CertificateDer<'static>>> {
    let all = CertificateDer::pem_file_iter(file)?.collect::<Result<Vec<_>, _>>()?;
    if all.is_empty() {
        bail!("no certificate is in it");
    }
    Ok(all)
}
