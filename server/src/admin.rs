//! The admin socket: JSON over HTTP beside the cache's own ports, off unless `--admin` asks for it. Who may: anybody on loopback or on a
//! Unix socket; elsewhere, and where `--admin-token` names one, who has the token.
//!
//! `GET /healthz`, `GET /metrics` (Prometheus text), `GET /tenants`, `GET`, `PUT` and `DELETE
//! /tenants/NAME`, `GET /curves/NAME`, `GET /advice`, `POST /config`.

use std::net::SocketAddr;
use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;

use anyhow::{Context, Result, bail, ensure};
use axum::extract::{Path, Query, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use cache::{Aim, Cache, DEFAULT_TENANT, Demand, RegistryError, TenantSpec, Terms};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use subtle::ConstantTimeEq;
use tokio::sync::watch;

use crate::config::{TenantTable, check_name};
use crate::metrics;
use crate::shared::Server;
use crate::stats;
use crate::tenancy::Tenancy;

/// Where it listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminAt {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

/// The admin socket as flags state it.
#[derive(Clone, Debug)]
pub struct AdminConfig {
    /// Where it listens.
    pub at: AdminAt,
    /// What a client has to show.
    pub token: Option<String>,
}

impl AdminConfig {
    /// `HOST:PORT` (an address, not a name) or a path with a slash; the token is read from its file.
    ///
    /// # Errors
    /// The address is none, the file cannot be read, or strangers could come in.
    pub fn new(at: &str, token_file: Option<&std::path::Path>) -> Result<AdminConfig> {
        let at = match at.parse::<SocketAddr>() {
            Ok(address) => AdminAt::Tcp(address),
            Err(_) if at.contains('/') => AdminAt::Unix(at.into()),
            Err(_) => bail!("--admin {at}: write ADDRESS:PORT, such as 127.0.0.1:9411, or the path of a socket"),
        };
        let token = token_file.map(|path| {
            let text = std::fs::read_to_string(path).with_context(|| format!("--admin-token {}", path.display()))?;
            let token = text.trim().to_owned();
            if token.is_empty() {
                bail!("--admin-token {}: it is empty", path.display())
            }
            Ok(token)
        });
        let token = token.transpose()?;
        match &at {
            AdminAt::Tcp(address) if !address.ip().is_loopback() && token.is_none() => {
                bail!("--admin {address}: beyond loopback it takes a token: name its file with --admin-token FILE")
            }
            _ => Ok(AdminConfig { at, token }),
        }
    }
}

/// The thread that serves it.
pub(crate) struct Admin {
    thread: JoinHandle<()>,
    /// Where it listens, as it turned out.
    pub(crate) address: String,
}

struct Shared {
    server: Arc<Server>,
    tenancy: Arc<Tenancy>,
    cache: Arc<Cache>,
    token: Option<String>,
}

enum Listener {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener, PathBuf),
}

/// Where it is going to listen: requests wait there until it starts.
pub(crate) struct AdminSocket {
    listener: Listener,
    address: String,
    token: Option<String>,
}

impl AdminSocket {
    pub(crate) fn bind(config: &AdminConfig) -> Result<AdminSocket> {
        let (listener, address) = match &config.at {
            AdminAt::Tcp(address) => {
                let listener = std::net::TcpListener::bind(address).with_context(|| format!("--admin {address}"))?;
                listener.set_nonblocking(true)?;
                let address = listener.local_addr()?.to_string();
                (Listener::Tcp(listener), address)
            }
            AdminAt::Unix(path) => {
                // a socket of a run before goes; anything else is somebody's, and the bind says that it is in the way
                if std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
                    let _ = std::fs::remove_file(path);
                }
                let listener = std::os::unix::net::UnixListener::bind(path);
                let listener = listener.with_context(|| format!("--admin {}", path.display()))?;
                std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
                listener.set_nonblocking(true)?;
                (Listener::Unix(listener, path.clone()), path.display().to_string())
            }
        };
        Ok(AdminSocket { listener, address, token: config.token.clone() })
    }
}

impl Admin {
    pub(crate) fn start(
        socket: AdminSocket,
        server: &Arc<Server>,
        tenancy: &Arc<Tenancy>,
        cache: &Arc<Cache>,
        stopped: watch::Receiver<bool>,
    ) -> Result<Admin> {
        let AdminSocket { listener, address, token } = socket;
        let shared =
            Shared { server: Arc::clone(server), tenancy: Arc::clone(tenancy), cache: Arc::clone(cache), token };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new().name("admin".to_owned()).spawn(move || {
            if let Err(error) = runtime.block_on(serve(listener, shared, stopped)) {
                eprintln!("flashare: the admin socket is gone: {error:#}");
            }
        })?;
        Ok(Admin { thread, address })
    }

    /// Waits for its end, after the stop was told.
    pub(crate) fn stop(self) {
        // a panic there was reported when it happened
        let _ = self.thread.join();
    }
}

async fn serve(listener: Listener, shared: Shared, mut stopped: watch::Receiver<bool>) -> Result<()> {
    let shared = Arc::new(shared);
    let router = Router::new()
        .route("/healthz", get(healthz))
        .route("/metrics", get(metrics))
        .route("/tenants", get(tenants))
        .route("/tenants/{name}", get(tenant).put(put).delete(remove))
        .route("/curves/{name}", get(curve))
        .route("/advice", get(advice))
        .route("/config", post(write_config))
        .fallback(|| async {
            let there = "there is /healthz, /metrics, /tenants, /tenants/NAME, /curves/NAME, /advice and /config";
            refuse(StatusCode::NOT_FOUND, there)
        })
        .layer(axum::middleware::from_fn_with_state(Arc::clone(&shared), admit))
        .with_state(shared);
    let end = async move { drop(stopped.wait_for(|stopped| *stopped).await) };
    // who holds a connection open does not hold up the stop
    match listener {
        Listener::Tcp(listener) => {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            tokio::select! { served = axum::serve(listener, router) => served?, () = end => {} }
        }
        Listener::Unix(listener, path) => {
            let listener = tokio::net::UnixListener::from_std(listener)?;
            tokio::select! { served = axum::serve(listener, router) => served?, () = end => {} }
            let _ = std::fs::remove_file(path);
        }
    }
    Ok(())
}

fn refuse(status: StatusCode, why: impl Into<String>) -> Response {
    (status, Json(json!({ "error": why.into() }))).into_response()
}

async fn admit(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let shown = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let shown = shown.and_then(|text| text.strip_prefix("Bearer ")).unwrap_or("");
    match &shared.token {
        Some(token) if !bool::from(token.as_bytes().ct_eq(shown.as_bytes())) => {
            refuse(StatusCode::UNAUTHORIZED, "show the token: Authorization: Bearer TOKEN")
        }
        _ => next.run(request).await,
    }
}

async fn healthz(State(shared): State<Arc<Shared>>) -> Response {
    let flash = shared.cache.figures().flash;
    let lost = !shared.server.config.flash.is_empty() && !flash.as_ref().is_some_and(|flash| flash.enabled);
    // a cache without its flash still serves: it is degraded, not down
    Json(json!({ "status": if lost { "degraded" } else { "ok" }, "flash": flash.map(|flash| flash.enabled) }))
        .into_response()
}

async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    let text = metrics::spell(&shared.server, &shared.cache);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

fn told(shared: &Shared, id: u16) -> Value {
    let mut own = Map::new();
    stats::of_tenant(&shared.server, &shared.cache, id, &mut |key, value| {
        let value = value.to_string();
        let value = value.parse::<serde_json::Number>().map_or(Value::String(value), Value::Number);
        own.insert(key.to_owned(), value);
    });
    let reserved = shared.cache.registry().tenant(id).reserved_bytes();
    own.insert("reserved_configured".to_owned(), reserved.into());
    Value::Object(own)
}

async fn tenants(State(shared): State<Arc<Shared>>) -> Response {
    let all = shared.cache.registry().tenants().map(|tenant| (tenant.name.clone(), told(&shared, tenant.id)));
    Json(Value::Object(all.collect())).into_response()
}

async fn tenant(State(shared): State<Arc<Shared>>, Path(name): Path<String>) -> Response {
    match shared.cache.registry().find(&name) {
        Some(tenant) => Json(told(&shared, tenant.id)).into_response(),
        None => refuse(StatusCode::NOT_FOUND, format!("there is no tenant '{name}'")),
    }
}

/// A tenant's hit-rate curve: over DRAM, and over DRAM and flash together.
async fn curve(State(shared): State<Arc<Shared>>, Path(name): Path<String>) -> Response {
    let Some(tenant) = shared.cache.registry().find(&name) else {
        return refuse(StatusCode::NOT_FOUND, format!("there is no tenant '{name}'"));
    };
    let (dram, both) = shared.cache.curves(tenant.id);
    let points = |demand: &Demand| -> Vec<Value> {
        let ratio = |hits: f64| hits / demand.reads.max(1.0);
        demand.points.iter().map(|(bytes, hits)| json!({ "bytes": bytes.round(), "hit_ratio": ratio(*hits) })).collect()
    };
    let target = tenant.account.balance().target;
    Json(json!({
        "tenant": name,
        "sampled_objects": dram.sampled,
        "reads": dram.reads,
        "target": target,
        "hit_ratio_at_target": dram.hit_ratio(target as f64),
        "dram": points(&dram),
        "dram_and_flash": points(&both),
    }))
    .into_response()
}

#[derive(Deserialize)]
struct Asked {
    aim: Option<String>,
}

/// Which reservations would be best: `?aim=hits`, `fairness` or `goals`.
async fn advice(State(shared): State<Arc<Shared>>, Query(asked): Query<Asked>) -> Response {
    let named = asked.aim.as_deref().unwrap_or("hits");
    let Some((_, aim)) = Aim::ALL.iter().find(|(name, _)| *name == named) else {
        return refuse(StatusCode::BAD_REQUEST, format!("'{named}' is no aim: take hits, fairness or goals"));
    };
    let advised = shared.cache.advise(*aim);
    let registry = shared.cache.registry();
    let (mut before, mut after, mut reads) = (0.0, 0.0, 0.0);
    let mut tenants = Map::new();
    for (id, claim, bytes) in &advised {
        let demand = &claim.demand;
        (before, after) = (before + demand.hits(claim.now), after + demand.hits(*bytes));
        reads += demand.reads;
        let tenant = registry.tenant(*id);
        let row = json!({
            "reserved_configured": tenant.reserved_bytes(),
            "target": claim.now,
            "advised": bytes.round(),
            "hit_ratio": demand.hit_ratio(claim.now),
            "hit_ratio_advised": demand.hit_ratio(*bytes),
            "goal_hit_ratio": claim.goal,
            "share_of_reads": demand.reads,
        });
        tenants.insert(tenant.name.clone(), row);
    }
    for row in tenants.values_mut() {
        let own = row["share_of_reads"].as_f64().unwrap_or(0.0);
        row["share_of_reads"] = json!(own / f64::max(reads, 1.0));
    }
    let ratio = |hits: f64| hits / f64::max(reads, 1.0);
    Json(json!({ "aim": named, "hit_ratio": ratio(before), "hit_ratio_advised": ratio(after), "tenants": tenants }))
        .into_response()
}

/// Adds a tenant, or changes what is stated of it.
async fn put(State(shared): State<Arc<Shared>>, Path(name): Path<String>, body: String) -> Response {
    let table: TenantTable = match serde_json::from_str(&body) {
        Ok(table) => table,
        Err(error) => {
            return refuse(
                StatusCode::BAD_REQUEST,
                format!("expected an object such as {{\"reserved\": \"3MiB\"}}: {error}"),
            );
        }
    };
    let mut added = false;
    let changed = shared.tenancy.change(|specs| {
        check_name(&name)?;
        ensure!(table.name.as_ref().is_none_or(|own| *own == name), "the path says '{name}' and the body another name");
        let recognised = table.recognition(&name)?;
        match specs.iter_mut().find(|spec| spec.name == name) {
            Some(spec) => {
                ensure!(
                    recognised.is_none_or(|recognised| recognised == spec.recognised),
                    "tenant '{name}' is recognised otherwise: remove it first"
                );
                spec.terms = table.terms(&spec.terms);
            }
            None => {
                let recognised = recognised.with_context(|| {
                    format!("there is no tenant '{name}': to add it, state its prefix, port or user")
                })?;
                specs.push(TenantSpec { terms: table.terms(&Terms::default()), name: name.clone(), recognised });
                added = true;
            }
        }
        Ok(())
    });
    match changed {
        Ok(()) => {
            let status = if added { StatusCode::CREATED } else { StatusCode::OK };
            (status, tenant(State(shared), Path(name)).await).into_response()
        }
        Err(error) => refuse_change(&error),
    }
}

/// Removes a tenant: its requests are nobody's, or another's; its memory is drained to the others.
async fn remove(State(shared): State<Arc<Shared>>, Path(name): Path<String>) -> Response {
    if shared.cache.registry().find(&name).is_none() {
        return refuse(StatusCode::NOT_FOUND, format!("there is no tenant '{name}'"));
    }
    if name == DEFAULT_TENANT {
        return refuse(StatusCode::BAD_REQUEST, "the default tenant has what nobody else claims: it stays");
    }
    let changed = shared.tenancy.change(|specs| {
        specs.retain(|spec| spec.name != name);
        Ok(())
    });
    match changed {
        Ok(()) => Json(json!({ "removed": name })).into_response(),
        Err(error) => refuse_change(&error),
    }
}

/// Writes what was changed into the configuration, so that it outlives this process and the next reload.
async fn write_config(State(shared): State<Arc<Shared>>) -> Response {
    let Some(path) = &shared.server.config.tenants_file else {
        return refuse(StatusCode::CONFLICT, "there is no file to write: start with --config FILE");
    };
    match shared.tenancy.save(path) {
        Ok(()) => Json(json!({ "written": path })).into_response(),
        Err(error) => refuse(StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}")),
    }
}

fn refuse_change(error: &anyhow::Error) -> Response {
    let status = match error.downcast_ref::<RegistryError>() {
        Some(RegistryError::Unwritten(_)) => StatusCode::INTERNAL_SERVER_ERROR,
        Some(_) => StatusCode::CONFLICT,
        None => StatusCode::BAD_REQUEST,
    };
    refuse(status, format!("{error:#}"))
}
