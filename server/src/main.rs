//! The server's binary: flags in, a running server, and out again on a signal.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result};
use clap::Parser;
use nix::sys::mman::{MlockAllFlags, mlockall};
use nix::sys::resource::{Resource, setrlimit};
use nix::unistd::{Uid, User, initgroups, setgid, setsid, setuid};
use sd_notify::NotifyState;
use server::{Config, Flags, Running, Security, start};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};

/// Names the file for [`write_ports`].
const PORTS_FILE: &str = "MEMCACHED_PORT_FILENAME";
/// Tells a process that it is the one in the background.
const DETACHED: &str = "FLASHARE_DETACHED";
const LICENCE: &str = "flashare is licensed under MIT or Apache-2.0, at your choice.";

fn main() -> ExitCode {
    let flags = Flags::parse();
    match run(&flags) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("flashare: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(flags: &Flags) -> Result<()> {
    if flags.license {
        println!("{LICENCE}");
        return Ok(());
    }
    let config = Config::new(flags)?;
    warn(flags, &config);
    if flags.daemon && std::env::var_os(DETACHED).is_none() {
        return detach();
    }
    if flags.daemon {
        setsid().context("-d: beginning a session")?;
    }
    prepare(flags)?;
    serve(flags, config)
}

/// Says what was asked for and does nothing here.
fn warn(flags: &Flags, config: &Config) {
    let ignored = config.options.ignored.iter().map(|(word, why)| (format!("-o {word}"), *why));
    let letters = [
        (flags.growth_factor.is_some(), "-f", "memory is a log, without slabs"),
        (flags.slab_min_size.is_some(), "-n", "memory is a log, without slabs"),
        (flags.large_pages, "-L", "memory asks for huge pages anyhow"),
        (flags.napi_ids.is_some(), "-N", "connections are dealt out in turn"),
    ];
    let letters = letters.into_iter().filter(|(said, ..)| *said).map(|(_, letter, why)| (letter.to_owned(), why));
    for (word, why) in letters.chain(ignored) {
        eprintln!("flashare: {word} has no effect: {why}");
    }
    let mutual = config.listen.iter().any(|at| at.security == Security::Mutual);
    if mutual && config.options.tls_ca.is_none() {
        eprintln!(
            "flashare: -l mtls: lets in who has the server's own certificate, until -o ssl_ca_cert=FILE names who vouches for clients"
        );
    }
}

/// Starts the same command again in the background.
fn detach() -> Result<()> {
    let own = std::env::current_exe().context("-d: finding this program")?;
    let mut again = Command::new(own);
    again.args(std::env::args_os().skip(1)).env(DETACHED, "1");
    again.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    again.spawn().context("-d: starting in the background")?;
    Ok(())
}

/// What has to be done before memory is taken and threads begin.
fn prepare(flags: &Flags) -> Result<()> {
    if flags.coredumps {
        setrlimit(Resource::RLIMIT_CORE, u64::MAX, u64::MAX).context("-r: raising the core file limit")?;
    }
    if flags.lock_memory {
        mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE).context("-k: locking memory")?;
    }
    raise_descriptor_limit(flags.connections);
    Ok(())
}

/// Room for as many connections as -c allows, as far as the system lets us.
fn raise_descriptor_limit(connections: usize) {
    let wanted = connections as u64 + 64;
    if let Ok((soft, hard)) = nix::sys::resource::getrlimit(Resource::RLIMIT_NOFILE)
        && soft < wanted
        && setrlimit(Resource::RLIMIT_NOFILE, wanted.min(hard), hard).is_err()
    {
        eprintln!("flashare: -c {connections}: only {soft} descriptors are allowed; raise ulimit -n");
    }
}

/// Becomes the user that -u names. Ports and files are open by then.
fn become_user(name: &str) -> Result<()> {
    if !Uid::effective().is_root() {
        return Ok(());
    }
    let user = User::from_name(name)?.with_context(|| format!("-u {name}: there is no such user"))?;
    if user.uid.is_root() {
        return Ok(());
    }
    let groups_of = std::ffi::CString::new(name).context("-u")?;
    initgroups(&groups_of, user.gid)
        .and_then(|()| setgid(user.gid))
        .and_then(|()| setuid(user.uid))
        .with_context(|| format!("-u {name}"))
}

fn write_pid(path: &Path) -> Result<()> {
    std::fs::write(path, format!("{}\n", std::process::id())).with_context(|| format!("-P {}", path.display()))
}

/// Writes the ports that are listened on, for scripts that had the system pick them; as memcached, which names the file so.
fn write_ports(path: &Path, listeners: &[String]) -> Result<()> {
    let lines = listeners.iter().filter_map(|listener| {
        let (transport, address) = listener.split_once(':')?;
        let address: std::net::SocketAddr = address.parse().ok()?;
        let family = if address.is_ipv4() { "INET" } else { "INET6" };
        Some(format!("{} {family}: {}\n", transport.to_uppercase(), address.port()))
    });
    // a reader that waits for the file finds it whole
    let unfinished = path.with_extension("unfinished");
    std::fs::write(&unfinished, lines.collect::<String>())
        .and_then(|()| std::fs::rename(&unfinished, path))
        .with_context(|| format!("{PORTS_FILE}={}", path.display()))
}

/// Tells systemd, if that is who started this process (`Type=notify`), what becomes of it.
fn tell_service_manager(news: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(news) {
        eprintln!("flashare: NOTIFY_SOCKET: {error}");
    }
}

/// What follows once ports and files are open.
fn settle_in(flags: &Flags, running: &Running) -> Result<()> {
    if let Some(path) = std::env::var_os(PORTS_FILE) {
        write_ports(Path::new(&path), &running.listeners())?;
    }
    if let Some(path) = &flags.pid_file {
        write_pid(path)?;
    }
    if let Some(name) = &flags.user {
        become_user(name)?;
    }
    running.doubts().iter().for_each(|doubt| eprintln!("flashare: {doubt}"));
    Ok(())
}

fn serve(flags: &Flags, config: Config) -> Result<()> {
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP, SIGUSR1])?;
    let memory = config.memory_bytes >> 20;
    let hosts: Vec<String> = config.listen.iter().map(|at| at.host.clone()).collect();
    let socket = config.unix_socket.as_ref().map(|(path, _)| path.display().to_string());
    let running = start(config)?;
    if let Err(error) = settle_in(flags, &running) {
        running.stop(); // what it has taken over goes to the next start
        return Err(error);
    }
    let flash = running.cache.settings().flash.map_or(0, |flash| flash.bytes >> 20);
    let tenants = running.cache.registry().tenants().count();
    let at = socket.unwrap_or_else(|| format!("{}:{}", hosts.join(","), running.port));
    let version = server::VERSION;
    let standing = format!("serves on {at} from {memory} MiB of DRAM and {flash} MiB of flash, {tenants} tenant(s)");
    println!("flashare {version} {standing}");
    tell_service_manager(&[NotifyState::Ready, NotifyState::Status(&standing)]);
    for signal in signals.forever() {
        if signal == SIGHUP {
            running.reload();
            continue;
        }
        break;
    }
    tell_service_manager(&[NotifyState::Stopping]);
    running.stop();
    if let Some(path) = flags.pid_file.as_deref().map(AsRef::<OsStr>::as_ref) {
        let _ = std::fs::remove_file(path);
    }
    Ok(())
}
