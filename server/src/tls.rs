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

use crate::config::Security;
use crate::options::Options;

/// The certificates in use, which can be read again while connections go on.
pub(crate) struct Tls {
    options: Options,
    current: RwLock<Current>,
}

/// What is in use: a configuration for each kind of listener, and since when.
struct Current {
    stated: Arc<ServerConfig>,
    basic: Arc<ServerConfig>,
    /// Without an authority, the server's own certificate is one.
    mutual: Arc<ServerConfig>,
    since: Instant,
}

impl Current {
    fn read(options: &Options) -> Result<Current> {
        let vouching = options.tls_ca.as_ref().or(options.tls_chain.as_ref());
        if options.tls_verify > 1 && options.tls_ca.is_none() {
            bail!("-o ssl_verify_mode: name the authority with -o ssl_ca_cert=FILE");
        }
        let with = |verify| read(options, verify, vouching).map(Arc::new);
        Ok(Current { stated: with(options.tls_verify)?, basic: with(0)?, mutual: with(2)?, since: Instant::now() })
    }
}

impl Tls {
    pub(crate) fn load(options: &Options) -> Result<Tls> {
        Ok(Tls { options: options.clone(), current: RwLock::new(Current::read(options)?) })
    }

    /// Reads the files again. What is in use stays if they are bad.
    pub(crate) fn refresh(&self) -> Result<()> {
        let fresh = Current::read(&self.options)?;
        *self.current.write() = fresh;
        Ok(())
    }

    pub(crate) fn secs_since_refresh(&self) -> u64 {
        self.current.read().since.elapsed().as_secs()
    }

    /// The server's side of a new connection.
    pub(crate) fn accept(&self, security: Security) -> Result<ServerConnection> {
        let current = self.current.read();
        let config = match security {
            Security::Clear | Security::Stated => &current.stated,
            Security::Basic => &current.basic,
            Security::Mutual => &current.mutual,
        };
        let mut connection = ServerConnection::new(Arc::clone(config))?;
        connection.set_buffer_limit(Some(self.options.tls_buffer_bytes));
        Ok(connection)
    }
}

/// `verify`: as -o ssl_verify_mode, against the certificates in the file `authority`.
fn read(options: &Options, verify: u8, authority: Option<&String>) -> Result<ServerConfig> {
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
    let builder = match (verify, authority) {
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
