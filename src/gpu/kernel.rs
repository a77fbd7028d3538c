//! The declaration of a kernel, and the assembly of its WGSL source.

use super::Tensor;
use std::borrow::Cow;

/// The access of an entry point to a storage buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// `var<storage, read>`.
    Read,
    /// `var<storage, read_write>`: every element is written, and none is read before.
    Write,
    /// `var<storage, read_write>`: elements are read and changed in place.
    Update,
}

/// The type of weights and activations in memory. Sums are always f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Storage {
    /// f32: 4 bytes per element.
    #[default]
    F32,
    /// WGSL's f16: 2 bytes per element.
    F16,
    /// Two f16 packed into a u32: 2 bytes per element, on any adapter.
    Packed,
}

impl Storage {
    /// All types.
    pub const ALL: [Storage; 3] = [Storage::F32, Storage::F16, Storage::Packed];

    /// Returns the bytes of one element.
    pub const fn bytes(self) -> u64 {
        match self {
            Storage::F32 => 4,
            Storage::F16 | Storage::Packed => 2,
        }
    }

    /// Returns the WGSL file that defines `Quad`, `unpack` and `pack`.
    const fn helper(self) -> &'static str {
        match self {
            Storage::F32 => include_str!("storage_f32.wgsl"),
            Storage::F16 => include_str!("storage_f16.wgsl"),
            Storage::Packed => include_str!("storage_packed.wgsl"),
        }
    }
}

/// One storage buffer of a kernel. Bindings start at 1; binding 0 is the uniform block `params`.
#[derive(Debug, Clone, Copy)]
pub struct Binding {
    /// Name of the variable in WGSL.
    pub name: &'static str,
    /// Access of the kernel.
    pub access: Access,
    /// True for quads (four neighbouring elements in the dispatch's [`Storage`]), false for words.
    pub quads: bool,
    /// The override that is true if the dispatch has a tensor for this binding. A plan switches it off if no dispatch
    /// reads the output.
    pub switch: Option<&'static str>,
}

impl Binding {
    const fn new(name: &'static str, access: Access, quads: bool) -> Self {
        Binding { name, access, quads, switch: None }
    }

    /// Declares words that the kernel reads.
    pub const fn read(name: &'static str) -> Self {
        Self::new(name, Access::Read, false)
    }

    /// Declares words that the kernel writes.
    pub const fn write(name: &'static str) -> Self {
        Self::new(name, Access::Write, false)
    }

    /// Declares words that the kernel changes in place.
    pub const fn update(name: &'static str) -> Self {
        Self::new(name, Access::Update, false)
    }

    /// Declares quads that the kernel reads.
    pub const fn read_quads(name: &'static str) -> Self {
        Self::new(name, Access::Read, true)
    }

    /// Declares quads that the kernel writes.
    pub const fn write_quads(name: &'static str) -> Self {
        Self::new(name, Access::Write, true)
    }
}

/// A member of a uniform block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// Name, in Rust and in WGSL.
    pub name: &'static str,
    /// Offset in bytes.
    pub offset: usize,
    /// Type in Rust: `u32`, `f32` or `[f32; 4]`.
    pub ty: &'static str,
}

/// A uniform block, declared by [`entry_points!`](crate::entry_points!).
pub trait Uniform: bytemuck::NoUninit {
    /// Members. More may follow in WGSL, with names that start with `unused`.
    const FIELDS: &'static [Field];
    /// Size in WGSL, in bytes.
    const BYTES: usize;
}

/// The named tensors of an entry point, declared by [`entry_points!`](crate::entry_points!).
pub trait Tensors: Copy {
    /// The entry point's uniform block.
    type Params: Uniform;
    /// Name of the entry point.
    const ENTRY: &'static str;
    /// The entry point's storage buffers.
    const BINDINGS: &'static [Binding];

    /// Returns the tensor of each binding; `None` where an optional one is absent.
    fn list(self) -> Vec<Option<Tensor>>;
}

/// The number of invocations of a workgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkgroupSize {
    /// A fixed number.
    Count(u32),
    /// The value of a constant in the WGSL.
    Constant(&'static str),
    /// Computed in the WGSL from the sides of a tile. Grids count tiles.
    Tile,
}

/// A WGSL file with entry points.
#[derive(Debug, Clone, Copy)]
pub struct ShaderFile {
    /// Name in `shaders/` without `.wgsl`.
    pub name: &'static str,
    /// Text of the file.
    pub source: &'static str,
    /// Texts of the WGSL files that are appended.
    pub helpers: &'static [&'static str],
    /// Workgroup size of every entry point.
    pub workgroup_size: WorkgroupSize,
    /// True if the source calls subgroup operations.
    pub subgroups: bool,
    /// True if the source has buffers of quads; else all buffers are words.
    pub quads: bool,
}

impl ShaderFile {
    /// Default workgroup size.
    pub const WORKGROUP_SIZE: usize = 64;

    /// Declares a file for any adapter, with buffers of words, [`ShaderFile::WORKGROUP_SIZE`] and no helpers.
    pub const fn new(name: &'static str, source: &'static str) -> ShaderFile {
        let workgroup_size = WorkgroupSize::Count(Self::WORKGROUP_SIZE as u32);
        ShaderFile { name, source, helpers: &[], workgroup_size, subgroups: false, quads: false }
    }

    /// Sets the helpers.
    pub const fn helpers(self, helpers: &'static [&'static str]) -> ShaderFile {
        ShaderFile { helpers, ..self }
    }

    /// Sets the workgroup size.
    pub const fn workgroup_size(self, workgroup_size: WorkgroupSize) -> ShaderFile {
        ShaderFile { workgroup_size, ..self }
    }

    /// Declares buffers of quads.
    pub const fn quads(self) -> ShaderFile {
        ShaderFile { quads: true, ..self }
    }

    /// Declares subgroup operations. A workgroup is one subgroup of SUB invocations.
    pub const fn subgroups(self) -> ShaderFile {
        ShaderFile { subgroups: true, workgroup_size: WorkgroupSize::Constant("SUB"), ..self }
    }

    /// Returns the entry point with the tensors `T`.
    pub const fn kernel<T: Tensors>(&'static self) -> Kernel {
        let (params, uniform_bytes) = (T::Params::FIELDS, T::Params::BYTES);
        Kernel { file: self, entry: T::ENTRY, bindings: T::BINDINGS, params, uniform_bytes }
    }
}

/// The declaration of a WGSL entry point. A test compares it with the source as naga parses it.
#[derive(Debug, Clone, Copy)]
pub struct Kernel {
    /// The file that defines it.
    pub file: &'static ShaderFile,
    /// Name of the entry point.
    pub entry: &'static str,
    /// Storage buffers, in binding order from 1.
    pub bindings: &'static [Binding],
    /// Members of the uniform block at binding 0.
    pub params: &'static [Field],
    /// Bytes of the uniform block.
    pub uniform_bytes: usize,
}

impl Kernel {
    /// Returns true if it uses the adapter's matrix units.
    pub fn multiplies_fragments(&self) -> bool {
        self.file.source.contains("enable wgpu_cooperative_matrix;")
    }

    /// Returns the storage types that this entry point supports: only f32 if it has no quads.
    pub fn storages(&self) -> &'static [Storage] {
        let has_quads = self.file.quads && self.bindings.iter().any(|binding| binding.quads);
        match (has_quads, self.multiplies_fragments()) {
            (false, _) => &[Storage::F32],
            (true, false) => &Storage::ALL,
            (true, true) => &[Storage::F16],
        }
    }
}

/// Declares the entry points of WGSL files that share a uniform block.
///
/// The block comes first, with its size in WGSL, and becomes a struct. Each entry point follows, with its storage
/// buffers in binding order. It becomes a struct of the same name with one tensor for each buffer, the argument of
/// [`ShaderFile::launch`]. `if NAME` makes a tensor optional and names the override that is true if it is present;
/// `if _` makes it optional without an override.
#[macro_export]
macro_rules! entry_points {
    (
        struct $params:ident in $bytes:literal bytes { $($field:ident: $ty:ty),* $(,)? }
        $($(#[$doc:meta])* fn $entry:ident($($tensor:ident: $access:ident $(if $switch:tt)?),* $(,)?);)*
    ) => {
        #[repr(C)]
        #[derive(Clone, Copy, bytemuck::NoUninit)]
        struct $params { $($field: $ty),* }

        impl $crate::gpu::Uniform for $params {
            const FIELDS: &'static [$crate::gpu::Field] = &[$($crate::gpu::Field {
                name: stringify!($field),
                offset: std::mem::offset_of!($params, $field),
                ty: stringify!($ty),
            }),*];
            const BYTES: usize = {
                assert!(size_of::<$params>() <= $bytes);
                $bytes
            };
        }

        $(
            $(#[$doc])*
            #[allow(non_camel_case_types, reason = "spelled as in the WGSL")]
            #[derive(Clone, Copy)]
            struct $entry { $($tensor: $crate::entry_points!(@tensor $($switch)?)),* }

            impl $crate::gpu::Tensors for $entry {
                type Params = $params;
                const ENTRY: &'static str = stringify!($entry);
                const BINDINGS: &'static [$crate::gpu::Binding] = &[$($crate::gpu::Binding {
                    $(switch: $crate::entry_points!(@switch $switch),)?
                    ..$crate::gpu::Binding::$access(stringify!($tensor))
                }),*];

                fn list(self) -> Vec<Option<$crate::gpu::Tensor>> {
                    vec![$(self.$tensor.into()),*]
                }
            }
        )*
    };
    (@tensor) => { $crate::gpu::Tensor };
    (@tensor $switch:tt) => { Option<$crate::gpu::Tensor> };
    (@switch _) => { None };
    (@switch $switch:ident) => { Some(stringify!($switch)) };
}

/// Values for lines `const NAME: u32 = …;`, which set sizes of arrays and workgroups.
pub type Constants = Vec<(&'static str, u32)>;

/// Values for `override` declarations, which set no sizes.
pub type Overrides = Vec<(&'static str, f64)>;

/// Assembles the WGSL text of a kernel: replaces constants, appends helpers, and puts the directive that the storage
/// needs at the start of the first line, so that line numbers stay those of the file.
///
/// # Panics
/// If the source doesn't have exactly one line for a constant.
pub fn assemble(kernel: &Kernel, constants: &[(&'static str, u32)], storage: Storage) -> String {
    let file = kernel.file;
    let mut text: Cow<'_, str> = Cow::Borrowed(file.source);
    for (name, value) in constants {
        let head = format!("const {name}: u32 = ");
        let mut found = text.match_indices(&head);
        let (at, _) = found.next().unwrap_or_else(|| panic!("{}.wgsl has no line `{head}…`", file.name));
        assert!(found.next().is_none(), "{}.wgsl has more than one line `{head}…`", file.name);
        let start = at + head.len();
        let end = start
            + text[start..].find(';').unwrap_or_else(|| panic!("{}.wgsl: `{head}` has no end", file.name));
        text = Cow::Owned(format!("{}{value}{}", &text[..start], &text[end..]));
    }
    let mut text = text.into_owned();
    for helper in file.helpers.iter().copied().chain(file.quads.then(|| storage.helper())) {
        text.push('\n');
        text.push_str(helper);
    }
    if file.quads && storage == Storage::F16 {
        text.insert_str(0, "enable f16; ");
    }
    text
}
