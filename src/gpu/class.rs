//! The class of an adapter, and the work that a launch and a submit of it may hold.

/// How much parallel work an adapter takes to be busy; the order of some sums depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AdapterClass {
    /// Software on the processor's cores.
    Cpu,
    /// Some ten compute units that share the system's memory; also what a portable recording is made for.
    Integrated,
    /// A hundred compute units or more, with memory of their own.
    Discrete,
}

impl AdapterClass {
    pub(super) fn of(kind: wgpu::DeviceType) -> AdapterClass {
        match kind {
            wgpu::DeviceType::Cpu => AdapterClass::Cpu,
            wgpu::DeviceType::IntegratedGpu | wgpu::DeviceType::Other => AdapterClass::Integrated,
            wgpu::DeviceType::DiscreteGpu | wgpu::DeviceType::VirtualGpu => AdapterClass::Discrete,
        }
    }
}

impl std::fmt::Display for AdapterClass {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            AdapterClass::Cpu => "CPU",
            AdapterClass::Integrated => "integrated GPU",
            AdapterClass::Discrete => "discrete GPU",
        })
    }
}

/// Seconds that a dispatch may take by estimate: between dispatches only can other programs, and a watchdog, have their turn.
const DISPATCH_SECONDS: f64 = 0.05;

impl AdapterClass {
    /// Floating-point operations of the longest dispatch that a recording should hold: 50 ms of work on a slow adapter of
    /// the class. CPU adapters have no watchdog and no limit.
    pub fn dispatch_flops(self) -> f64 {
        DISPATCH_SECONDS
            * match self {
                AdapterClass::Cpu => f64::INFINITY,
                AdapterClass::Integrated => 2e11,
                AdapterClass::Discrete => 1e12,
            }
    }

    /// Floating-point operations that a submit of several dispatches holds at most: 100 ms of work on a slow adapter of the
    /// class. Watchdogs end what takes two seconds.
    pub(super) fn submit_flops(self) -> f64 {
        2.0 * self.dispatch_flops()
    }
}
