//! A guest: its image, its machine, and its proxy on the host.

use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use libos_ipc::Identity;
use libos_ipc::host::{Proxy, ProxyEnd};

use crate::Options;
use crate::log::RunLog;

/// Builds the guest, and returns the path of its image.
pub(crate) fn build() -> Result<PathBuf> {
    ensure!(
        cfg!(all(target_arch = "x86_64", target_os = "linux")),
        "the guest is built with the host's own target, which has to be x86-64 Linux"
    );
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let manifest = root.join("examples/unikernel/guest/Cargo.toml");
    ensure!(
        manifest.exists(),
        "the package on a registry has no guest: run this example in the repository"
    );
    let target = root.join("target/unikernel");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args([
            "build",
            "--release",
            "--locked",
            "--quiet",
            "--manifest-path",
        ])
        .arg(&manifest)
        .arg("--target-dir")
        .arg(&target)
        // Flags for the host's programs do not apply to the guest.
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("CARGO_BUILD_TARGET")
        .status()
        .context("running cargo to build the guest")?;
    if !status.success() {
        bail!("the guest could not be built: see above");
    }
    Ok(target.join("release/unikernel-guest"))
}

/// Checks that QEMU can be run.
pub(crate) fn check(qemu: &Path) -> Result<()> {
    let found = Command::new(qemu)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    match found {
        Ok(status) if status.success() => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => bail!(
            "{} is not there: install the package qemu-system-x86, or say with --qemu where it is",
            qemu.display()
        ),
        other => bail!("{} does not run: {other:?}", qemu.display()),
    }
}

/// A running machine. It ends with this object.
pub(crate) struct Machine {
    pub(crate) name: String,
    /// The time of its start, from the beginning of the run on.
    pub(crate) started: Duration,
    qemu: Child,
    proxy: Option<JoinHandle<ProxyEnd>>,
    /// The threads that print the output of the guest and of QEMU.
    printers: Vec<JoinHandle<()>>,
}

impl Machine {
    /// Starts the guest with the index `participant` as the process `identity` of the family at `base`.
    pub(crate) fn start(
        options: &Options,
        image: &Path,
        base: &Path,
        identity: Identity,
        participant: usize,
        log: &RunLog,
    ) -> Result<Machine> {
        let name = format!("guest {participant}");
        // The proxy has one end, and QEMU's standard input is the other.
        let (ours, theirs) = UnixStream::pair().context("a channel to the guest")?;
        let proxy = Proxy::new(base, identity.vmid, ours).context("the proxy of the guest")?;
        let mut kernel_arguments = format!("identity={identity} participant={participant}");
        if let Some(fault) = options.fault.filter(|_| participant == 2) {
            kernel_arguments += " fault=";
            kernel_arguments += fault.name();
        }
        let started = log.elapsed();
        let mut qemu = Command::new(&options.qemu)
            .args([
                "-M",
                "microvm,acpi=off,rtc=off,isa-serial=on",
                "-accel",
                "tcg",
            ])
            .args(["-m", &format!("{}M", options.memory)])
            .args([
                "-nodefaults",
                "-no-user-config",
                "-no-reboot",
                "-display",
                "none",
            ])
            .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=4"])
            .args([
                "-chardev",
                "file,id=console,path=/dev/stdout",
                "-serial",
                "chardev:console",
            ])
            .args(["-global", "virtio-mmio.force-legacy=false"])
            .args(["-chardev", "socket,id=line,fd=0"])
            .args(["-device", "virtio-serial-device,max_ports=1"])
            .args(["-device", "virtconsole,chardev=line"])
            .arg("-kernel")
            .arg(image)
            .args(["-append", &kernel_arguments])
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("starting QEMU")?;
        let console = qemu.stdout.take().context("it is piped")?;
        let errors = qemu.stderr.take().context("it is piped")?;
        Ok(Machine {
            started,
            proxy: Some(thread::spawn(move || proxy.run())),
            printers: vec![
                log.copy_output(&name, console),
                log.copy_output("qemu", errors),
            ],
            qemu,
            name,
        })
    }

    /// Returns true if the machine was switched off.
    pub(crate) fn is_off(&mut self) -> Result<bool> {
        Ok(self.qemu.try_wait()?.is_some())
    }

    /// Kills the machine.
    pub(crate) fn kill(&mut self) -> Result<()> {
        Ok(self.qemu.kill()?)
    }

    /// Waits until it is off and all its output was printed. Returns QEMU's exit status and the
    /// reason of the proxy's end.
    pub(crate) fn wait(&mut self) -> Result<(ExitStatus, ProxyEnd)> {
        let status = self.qemu.wait()?;
        for printer in self.printers.drain(..) {
            // A thread that panicked has printed a message.
            let _ = printer.join();
        }
        let end = self.proxy.take().and_then(|proxy| proxy.join().ok());
        let end = end.with_context(|| format!("the proxy of {} panicked", self.name))?;
        Ok((status, end))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // If it is off, this does nothing.
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}
