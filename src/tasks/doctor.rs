//! Checks of a machine: what the program needs to use its GPU, what is missing, and how to get it.

use crate::gpu::{AdapterClass, AdapterSummary, Context, ContextOptions, tuning};
use serde::Serialize;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Major version of Mesa from which its drivers have matrix units and are faster.
const NEW_MESA: u32 = 25;

/// Device memory in bytes below which large batches don't fit.
const LITTLE_MEMORY: u64 = 2 << 30;

/// Folders of shared libraries.
const LIBRARIES: [&str; 8] = [
    "usr/lib",
    "usr/lib64",
    "usr/lib/x86_64-linux-gnu",
    "usr/lib/aarch64-linux-gnu",
    "usr/local/lib",
    "usr/local/lib64",
    "lib/x86_64-linux-gnu",
    "lib64",
];

/// Folders of the manifests of Vulkan drivers.
const MANIFESTS: [&str; 3] = ["usr/share/vulkan/icd.d", "etc/vulkan/icd.d", "usr/local/share/vulkan/icd.d"];

/// The name of Vulkan's loader.
const LOADER: &str = "libvulkan.so.1";

/// Makers of GPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vendor {
    /// AMD.
    Amd,
    /// Intel.
    Intel,
    /// NVIDIA.
    Nvidia,
}

impl Vendor {
    /// Finds a maker by its PCI number, such as `0x1002`.
    fn of(number: &str) -> Option<Vendor> {
        match number.trim() {
            "0x1002" => Some(Vendor::Amd),
            "0x8086" => Some(Vendor::Intel),
            "0x10de" => Some(Vendor::Nvidia),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Vendor::Amd => "AMD",
            Vendor::Intel => "Intel",
            Vendor::Nvidia => "NVIDIA",
        }
    }

    /// Returns whether a manifest is that of a driver for these GPUs.
    fn is_driven_by(self, manifest: &str) -> bool {
        let beginnings: &[&str] = match self {
            Vendor::Amd => &["radeon", "amd"],
            Vendor::Intel => &["intel"],
            Vendor::Nvidia => &["nvidia", "nouveau"],
        };
        beginnings.iter().any(|beginning| manifest.starts_with(beginning))
    }
}

/// Families of Linux distributions, by their package managers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Packages {
    Apt,
    Dnf,
    Pacman,
    Zypper,
    Unknown,
}

impl Packages {
    /// Reads `/etc/os-release`.
    fn of(release: &str) -> Packages {
        let fields = release.lines().filter_map(|line| line.split_once('='));
        let ids = fields.filter(|(name, _)| ["ID", "ID_LIKE"].contains(name));
        let ids: String = ids.map(|(_, value)| format!("{} ", value.replace('"', ""))).collect();
        let has = |names: &[&str]| ids.split_whitespace().any(|id| names.contains(&id));
        match () {
            _ if has(&["debian", "ubuntu"]) => Packages::Apt,
            _ if has(&["fedora", "rhel"]) => Packages::Dnf,
            _ if has(&["arch"]) => Packages::Pacman,
            _ if has(&["suse", "opensuse"]) => Packages::Zypper,
            _ => Packages::Unknown,
        }
    }

    /// The command that installs loader and Mesa's drivers, or for `None` of them a description.
    fn install(self, vendor: Option<Vendor>) -> String {
        if vendor == Some(Vendor::Nvidia) {
            return match self {
                Packages::Apt => {
                    "install NVIDIA's driver: on Ubuntu `sudo ubuntu-drivers install`, on Debian \
                                  `sudo apt install nvidia-driver`"
                        .to_string()
                }
                Packages::Pacman => "sudo pacman -S nvidia-utils vulkan-icd-loader".to_string(),
                _ => "install NVIDIA's driver by the instructions of the distribution".to_string(),
            };
        }
        match self {
            Packages::Apt => "sudo apt install libvulkan1 mesa-vulkan-drivers".to_string(),
            Packages::Dnf => "sudo dnf install vulkan-loader mesa-vulkan-drivers".to_string(),
            Packages::Pacman => {
                let driver = match vendor {
                    Some(Vendor::Amd) => "vulkan-radeon",
                    Some(Vendor::Intel) => "vulkan-intel",
                    _ => "vulkan-swrast",
                };
                format!("sudo pacman -S vulkan-icd-loader {driver}")
            }
            Packages::Zypper => "sudo zypper install libvulkan1 Mesa-vulkan-drivers".to_string(),
            Packages::Unknown => "install Vulkan's loader and Mesa's Vulkan drivers".to_string(),
        }
    }
}

/// An adapter that the drivers offer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Name.
    pub name: String,
    /// Driver and version.
    pub driver: String,
    /// True for a CPU adapter.
    pub is_cpu: bool,
    /// Bytes of device memory, if known.
    pub memory: Option<u64>,
    /// Remarks about it.
    pub notes: Vec<String>,
}

impl Seen {
    /// The facts of an adapter.
    pub fn of(adapter: &AdapterSummary) -> Seen {
        Seen {
            name: adapter.name.clone(),
            driver: adapter.driver.clone(),
            is_cpu: adapter.class == AdapterClass::Cpu,
            memory: adapter.memory,
            notes: adapter.notes(),
        }
    }

    /// Mesa's major version, if its driver is Mesa's.
    fn mesa(&self) -> Option<u32> {
        self.driver.split_once("Mesa ")?.1.split('.').next()?.parse().ok()
    }
}

/// Facts of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Machine {
    /// Facts that only Linux has.
    pub linux: Option<Linux>,
    /// Adapters, the default first.
    pub adapters: Vec<Seen>,
    /// Reason why the default adapter can't be opened, if it can't.
    pub refusal: Option<String>,
    /// The cache folder, and whether it can be written.
    pub cache: Option<(PathBuf, bool)>,
}

/// Facts of a Linux machine.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Linux {
    /// `/etc/os-release`.
    pub release: String,
    /// Vulkan's loader.
    pub loader: Option<PathBuf>,
    /// Names of the drivers' manifests.
    pub manifests: Vec<String>,
    /// GPUs on the bus.
    pub gpus: Vec<Vendor>,
    /// Devices of GPUs that may not be opened.
    pub denied: Vec<PathBuf>,
}

impl Linux {
    /// Reads the files of a machine. `root` is `/`, `libraries` are more folders of libraries, and `drivers` are
    /// manifests that take the place of the system's.
    pub fn read(root: &Path, libraries: &[PathBuf], drivers: &[PathBuf]) -> Linux {
        let files = |folder: &Path| -> Vec<PathBuf> {
            let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
            let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
            files.sort();
            files
        };
        let name =
            |path: &PathBuf| path.file_name().map_or(String::new(), |name| name.to_string_lossy().into());
        let folders = libraries.iter().cloned().chain(LIBRARIES.iter().map(|folder| root.join(folder)));
        let loader = folders.map(|folder| folder.join(LOADER)).find(|file| file.exists());
        let installed = MANIFESTS.iter().flat_map(|folder| files(&root.join(folder)));
        let manifests: Vec<PathBuf> = match drivers {
            [] => installed.filter(|file| file.extension().is_some_and(|end| end == "json")).collect(),
            given => given.iter().filter(|file| file.exists()).cloned().collect(),
        };
        let cards = files(&root.join("sys/class/drm"));
        let mut gpus: Vec<Vendor> = cards
            .iter()
            .filter(|card| name(card).starts_with("card") && !name(card).contains('-'))
            .filter_map(|card| Vendor::of(&std::fs::read_to_string(card.join("device/vendor")).ok()?))
            .collect();
        gpus.dedup();
        let nodes = files(&root.join("dev/dri")).into_iter().filter(|node| name(node).starts_with("renderD"));
        let is_denied = |node: &PathBuf| {
            let opened = std::fs::File::options().read(true).write(true).open(node);
            opened.is_err_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied)
        };
        Linux {
            release: std::fs::read_to_string(root.join("etc/os-release")).unwrap_or_default(),
            loader,
            manifests: manifests.iter().map(name).collect(),
            gpus,
            denied: nodes.filter(is_denied).collect(),
        }
    }
}

/// Result of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// As it should be.
    Ok,
    /// It works, but could be better.
    Warning,
    /// Something is missing.
    Problem,
}

/// A finding about a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The part of the machine.
    pub check: &'static str,
    /// Result.
    pub state: State,
    /// Facts in words.
    pub text: String,
    /// Remedy, such as a command.
    pub advice: Option<String>,
}

impl Machine {
    /// Examines this machine, and opens its default adapter.
    pub fn examine() -> Machine {
        let paths = |name: &str| -> Vec<PathBuf> {
            let value: OsString = std::env::var_os(name).unwrap_or_default();
            std::env::split_paths(&value).filter(|path| !path.as_os_str().is_empty()).collect()
        };
        let drivers = ["VK_DRIVER_FILES", "VK_ICD_FILENAMES"].map(paths);
        let drivers = drivers.into_iter().find(|files| !files.is_empty()).unwrap_or_default();
        let linux = cfg!(target_os = "linux")
            .then(|| Linux::read(Path::new("/"), &paths("LD_LIBRARY_PATH"), &drivers));
        let adapters: Vec<Seen> = crate::gpu::adapters().iter().map(Seen::of).collect();
        let open = || Context::open(&ContextOptions::from_environment(None)).err();
        let refusal = if adapters.is_empty() { None } else { open().map(|error| error.to_string()) };
        let cache = tuning::folder().map(|folder| {
            let writable = std::fs::create_dir_all(&folder).is_ok() && tempfile::tempfile_in(&folder).is_ok();
            (folder, writable)
        });
        Machine { linux, adapters, refusal, cache }
    }

    /// Checks the facts.
    pub fn findings(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        let mut add = |check, state, text: String, advice: Option<String>| {
            findings.push(Finding { check, state, text, advice });
        };
        let packages = self.linux.as_ref().map_or(Packages::Unknown, |linux| Packages::of(&linux.release));
        let gpu = self.linux.as_ref().and_then(|linux| linux.gpus.first().copied());
        if let Some(Linux { loader, manifests, gpus, denied, .. }) = &self.linux {
            match loader {
                Some(file) => {
                    add("loader", State::Ok, format!("Vulkan's loader is {}", file.display()), None)
                }
                None => {
                    let advice = packages.install(gpu);
                    add(
                        "loader",
                        State::Problem,
                        format!("Vulkan's loader, {LOADER}, is missing"),
                        Some(advice),
                    );
                }
            }
            match &manifests[..] {
                [] => {
                    let advice = packages.install(gpu);
                    add("driver", State::Problem, "there is no Vulkan driver".to_string(), Some(advice));
                }
                names => add("driver", State::Ok, format!("Vulkan drivers: {}", names.join(", ")), None),
            }
            for &vendor in gpus {
                let text = format!("there is an {} GPU", vendor.name());
                if manifests.iter().any(|manifest| vendor.is_driven_by(manifest)) {
                    add("gpu", State::Ok, format!("{text}, and a driver for it"), None);
                } else {
                    let advice = packages.install(Some(vendor));
                    add("gpu", State::Problem, format!("{text}, but no Vulkan driver for it"), Some(advice));
                }
            }
            for node in denied {
                let text = format!("{} may not be opened", node.display());
                let advice = "sudo usermod -aG render,video \"$USER\", then log in again".to_string();
                add("permissions", State::Problem, text, Some(advice));
            }
        }
        match self.adapters.first() {
            None => {
                let advice = self.linux.as_ref().map(|_| packages.install(gpu));
                add("adapter", State::Problem, "no graphics adapter was found".to_string(), advice);
            }
            Some(adapter) if adapter.is_cpu && gpu.is_some() => {
                let text = format!("only {}, a CPU adapter, although there is a GPU", adapter.name);
                add("adapter", State::Problem, text, Some(packages.install(gpu)));
            }
            Some(adapter) if adapter.is_cpu => {
                add("adapter", State::Warning, adapter.notes.join("; "), None);
            }
            Some(adapter) => {
                add("adapter", State::Ok, format!("{}, {}", adapter.name, adapter.driver), None);
                for note in &adapter.notes {
                    add("adapter", State::Warning, note.clone(), None);
                }
            }
        }
        if let Some(reason) = &self.refusal {
            add("adapter", State::Problem, format!("it can't be opened: {reason}"), None);
        }
        if let Some(adapter) = self.adapters.first() {
            if let Some(version) = adapter.mesa().filter(|&version| version < NEW_MESA) {
                let text = format!("Mesa {version} is old: newer ones are faster");
                let advice = match packages {
                    Packages::Apt => {
                        "a newer release of the distribution, or its backports, has a newer Mesa"
                    }
                    _ => "a newer release of the distribution has a newer Mesa",
                };
                add("mesa", State::Warning, text, Some(advice.to_string()));
            }
            match adapter.memory {
                Some(bytes) if bytes < LITTLE_MEMORY => {
                    let text = format!("{} MiB of device memory are little", bytes >> 20);
                    let advice = "train with --micro-batch 8, and embed with --memory".to_string();
                    add("memory", State::Warning, text, Some(advice));
                }
                Some(bytes) => {
                    add("memory", State::Ok, format!("{} MiB of device memory", bytes >> 20), None);
                }
                None => {}
            }
        }
        match &self.cache {
            Some((folder, true)) => {
                add("cache", State::Ok, format!("{} can be written", folder.display()), None);
            }
            Some((folder, false)) => {
                let advice = "set LAT_CACHE to a folder that can be written".to_string();
                add("cache", State::Warning, format!("{} can't be written", folder.display()), Some(advice));
            }
            None => {
                let advice = "set HOME or LAT_CACHE".to_string();
                add("cache", State::Warning, "there is no cache folder".to_string(), Some(advice));
            }
        }
        findings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(driver: &str, is_cpu: bool) -> Seen {
        Seen {
            name: "card".to_string(),
            driver: driver.to_string(),
            is_cpu,
            memory: Some(8 << 30),
            notes: if is_cpu { vec!["card is slow".to_string()] } else { Vec::new() },
        }
    }

    fn good() -> Machine {
        let linux = Linux {
            release: "ID=ubuntu\nID_LIKE=debian\n".to_string(),
            loader: Some("/usr/lib/libvulkan.so.1".into()),
            manifests: vec!["lvp_icd.x86_64.json".to_string(), "radeon_icd.x86_64.json".to_string()],
            gpus: vec![Vendor::Amd],
            denied: Vec::new(),
        };
        let adapters = vec![seen("radv Mesa 25.2.1", false)];
        Machine { linux: Some(linux), adapters, refusal: None, cache: Some(("/c".into(), true)) }
    }

    /// Findings that are not ok: check, state, and text with advice.
    fn wrong(machine: &Machine) -> Vec<(&'static str, State, String)> {
        let findings = machine.findings().into_iter().filter(|finding| finding.state != State::Ok);
        let words =
            |finding: &Finding| format!("{} | {}", finding.text, finding.advice.clone().unwrap_or_default());
        findings.map(|finding| (finding.check, finding.state, words(&finding))).collect()
    }

    #[test]
    fn a_good_machine_has_no_finding() {
        assert_eq!(wrong(&good()), []);
        let other = Machine { linux: None, ..good() };
        assert_eq!(wrong(&other), []);
    }

    #[test]
    fn each_fault_is_found_with_its_remedy() {
        let change = |change: &dyn Fn(&mut Linux, &mut Vec<Seen>)| {
            let mut machine = good();
            let Machine { linux: Some(linux), adapters, .. } = &mut machine else { unreachable!() };
            change(linux, adapters);
            wrong(&machine)
        };
        type Change<'a> = &'a dyn Fn(&mut Linux, &mut Vec<Seen>);
        let cases: [(Change<'_>, &str, State, &str); 12] = [
            (
                &|l, _| l.loader = None,
                "loader",
                State::Problem,
                "sudo apt install libvulkan1 mesa-vulkan-drivers",
            ),
            (&|l, _| l.manifests.clear(), "driver", State::Problem, "sudo apt install"),
            (&|l, _| drop(l.manifests.pop()), "gpu", State::Problem, "an AMD GPU, but no Vulkan driver"),
            (&|l, _| l.gpus = vec![Vendor::Nvidia], "gpu", State::Problem, "sudo ubuntu-drivers install"),
            (
                &|l, _| l.denied = vec!["/dev/dri/renderD128".into()],
                "permissions",
                State::Problem,
                "usermod -aG render",
            ),
            (&|_, a| a.clear(), "adapter", State::Problem, "no graphics adapter was found"),
            (
                &|_, a| a[0] = seen("llvmpipe Mesa 25.0.7", true),
                "adapter",
                State::Problem,
                "although there is a GPU",
            ),
            (
                &|l, a| (a[0], l.gpus) = (seen("llvmpipe Mesa 25.0.7", true), vec![]),
                "adapter",
                State::Warning,
                "card is slow",
            ),
            (&|_, a| a[0].driver = "radv Mesa 22.3.6".to_string(), "mesa", State::Warning, "Mesa 22 is old"),
            (&|_, a| a[0].memory = Some(1 << 30), "memory", State::Warning, "1024 MiB"),
            (
                &|l, _| {
                    (l.release, l.loader) =
                        ("ID=\"opensuse-leap\"\nID_LIKE=\"suse opensuse\"".to_string(), None)
                },
                "loader",
                State::Problem,
                "sudo zypper install",
            ),
            (
                &|l, _| {
                    (l.release, l.gpus, l.manifests) =
                        ("ID=arch\n".to_string(), vec![Vendor::Intel], vec!["lvp".into()])
                },
                "gpu",
                State::Problem,
                "sudo pacman -S vulkan-icd-loader vulkan-intel",
            ),
        ];
        for (fault, check, state, words) in cases {
            let found = change(fault);
            let is_it =
                |(at, is, text): &(&str, State, String)| *at == check && *is == state && text.contains(words);
            assert!(found.iter().any(is_it), "{check} {words}: {found:?}");
        }
        let refused = Machine { refusal: Some("lost".to_string()), ..good() };
        assert!(wrong(&refused)[0].2.contains("it can't be opened: lost"));
        for (cache, words) in [(None, "set HOME"), (Some(("/c".into(), false)), "/c can't be written")] {
            assert!(wrong(&Machine { cache, ..good() })[0].2.contains(words));
        }
    }

    #[test]
    fn files_of_a_machine_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        assert_eq!(Linux::read(root, &[], &[]), Linux::default());
        let write = |name: &str, text: &str| {
            std::fs::create_dir_all(root.join(name).parent().unwrap()).unwrap();
            std::fs::write(root.join(name), text).unwrap();
        };
        write("etc/os-release", "ID=debian\n");
        write("usr/lib/x86_64-linux-gnu/libvulkan.so.1", "");
        write("usr/share/vulkan/icd.d/nvidia_icd.json", "");
        write("usr/share/vulkan/icd.d/notes.txt", "");
        write("etc/vulkan/icd.d/lvp_icd.json", "");
        for (card, vendor) in [("card0", "0x10de\n"), ("card0-DP-1", "0x8086\n"), ("card1", "0x1234\n")] {
            write(&format!("sys/class/drm/{card}/device/vendor"), vendor);
        }
        write("dev/dri/renderD128", "");
        let found = Linux::read(root, &[], &[]);
        assert_eq!(found.manifests, ["nvidia_icd.json", "lvp_icd.json"]);
        assert_eq!((found.gpus, found.denied), (vec![Vendor::Nvidia], vec![]));
        assert_eq!(found.loader, Some(root.join("usr/lib/x86_64-linux-gnu/libvulkan.so.1")));
        // Variables take the place of the system's drivers, and add libraries.
        write("own/libvulkan.so.1", "");
        write("own/a.json", "");
        let found =
            Linux::read(root, &[root.join("own")], &[root.join("own/a.json"), root.join("own/b.json")]);
        assert_eq!(
            (found.loader, found.manifests),
            (Some(root.join("own/libvulkan.so.1")), vec!["a.json".into()])
        );
    }
}
