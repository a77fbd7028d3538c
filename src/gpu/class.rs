//! The class of an adapter, and the most work in a dispatch and in a submit.

/// The class of an adapter, by the amount of parallel work that keeps it busy. The order of some sums depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AdapterClass {
    /// Software on CPU cores.
    Cpu,
    /// About ten compute units that share the system's memory. Portable recordings are made for this class.
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

/// Longest estimated time of a dispatch, in seconds. Other programs get the GPU only between dispatches.
const DISPATCH_SECONDS: f64 = 0.05;

impl AdapterClass {
    /// Returns the most floating-point operations of a dispatch: 50 ms of work on a slow adapter of the class. CPU
    /// adapters have no watchdog and no limit.
    pub fn dispatch_flops(self) -> f64 {
        DISPATCH_SECONDS
            * match self {
                AdapterClass::Cpu => f64::INFINITY,
                AdapterClass::Integrated => 2e11,
                AdapterClass::Discrete => 1e12,
            }
    }

    /// Returns the most floating-point operations of a submit of several dispatches: 100 ms of work on a slow adapter
    /// of the class. Watchdogs stop work that takes two seconds.
    pub(super) fn submit_flops(self) -> f64 {
        2.0 * self.dispatch_flops()
    }
}
