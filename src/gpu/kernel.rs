//! A kernel's declaration, and how its WGSL source is assembled.

use super::Tensor;
use std::borrow::Cow;

/// The use that an entry point makes of a storage buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// `var<storage, read>`.
    Read,
    /// `var<storage, read_write>`, of which every element is written and none is read before.
    Write,
    /// `var<storage, read_write>`, whose elements are read and changed in place.
    Update,
}

/// How weights and activations lie in memory. Sums are f32 with any.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Storage {
    /// 4 bytes an element.
    #[default]
    F32,
    /// 2 bytes an element, of the shader's own type f16.
    F16,
    /// 2 bytes an element, two of them packed in a u32: any adapter.
    Packed,
}

impl Storage {
    /// Every way.
    pub const ALL: [Storage; 3] = [Storage::F32, Storage::F16, Storage::Packed];

    /// Bytes of one element.
    pub const fn bytes(self) -> u64 {
        match self {
            Storage::F32 => 4,
            Storage::F16 | Storage::Packed => 2,
        }
    }

    /// The WGSL file that defines `Quad`, `unpack` and `pack`.
    const fn helper(self) -> &'static str {
        match self {
            Storage::F32 => include_str!("../../shaders/common/storage_f32.wgsl"),
            Storage::F16 => include_str!("../../shaders/common/storage_f16.wgsl"),
            Storage::Packed => include_str!("../../shaders/common/storage_packed.wgsl"),
        }
    }
}

/// One storage buffer of a kernel, in binding order from 1 on; binding 0 is the uniform block `params`.
#[derive(Debug, Clone, Copy)]
pub struct Binding {
    /// The variable's name in the WGSL.
    pub name: &'static str,
    /// Its use.
    pub access: Access,
    /// True if it holds quads, four neighbouring elements each in the launch's [`Storage`]; else words.
    pub quads: bool,
    /// The override that is true where a launch has a tensor for it; a plan turns it off where nothing reads what it writes.
    pub switch: Option<&'static str>,
}

impl Binding {
    const fn new(name: &'static str, access: Access, quads: bool) -> Self {
        Binding { name, access, quads, switch: None }
    }

    /// Words that the kernel reads.
    pub const fn read(name: &'static str) -> Self {
        Self::new(name, Access::Read, false)
    }

    /// Words that the kernel writes.
    pub const fn write(name: &'static str) -> Self {
        Self::new(name, Access::Write, false)
    }

    /// Words that the kernel changes.
    pub const fn update(name: &'static str) -> Self {
        Self::new(name, Access::Update, false)
    }

    /// Quads that the kernel reads.
    pub const fn read_quads(name: &'static str) -> Self {
        Self::new(name, Access::Read, true)
    }

    /// Quads that the kernel writes.
    pub const fn write_quads(name: &'static str) -> Self {
        Self::new(name, Access::Write, true)
    }
}

/// A member of a uniform block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// Its name, in Rust and in the WGSL.
    pub name: &'static str,
    /// Where it begins, in bytes.
    pub offset: usize,
    /// Its type in Rust: `u32`, `f32` or `[f32; 4]`.
    pub ty: &'static str,
}

/// A uniform block, declared by [`entry_points!`](crate::entry_points!).
pub trait Uniform: bytemuck::NoUninit {
    /// Its members; the WGSL may have more behind them, whose names begin with `unused`.
    const FIELDS: &'static [Field];
    /// Its size in the WGSL.
    const BYTES: usize;
}

/// The tensors of an entry point by name, declared by [`entry_points!`](crate::entry_points!).
pub trait Tensors: Copy {
    /// The entry point's uniform block.
    type Params: Uniform;
    /// The entry point.
    const ENTRY: &'static str;
    /// Its storage buffers.
    const BINDINGS: &'static [Binding];

    /// One tensor for each binding; none where the launch has none.
    fn list(self) -> Vec<Option<Tensor>>;
}

/// How many invocations a workgroup has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkgroupSize {
    /// So many.
    Count(u32),
    /// As many as this constant says.
    Constant(&'static str),
    /// As many as the WGSL makes of its tile's sides: grids count tiles.
    Tile,
}

/// A WGSL file with entry points.
#[derive(Debug, Clone, Copy)]
pub struct ShaderFile {
    /// File name in `shaders/` without `.wgsl`.
    pub name: &'static str,
    /// The file's text.
    pub source: &'static str,
    /// Whole WGSL files that are appended to it.
    pub helpers: &'static [&'static str],
    /// Invocations of a workgroup of each entry point.
    pub workgroup_size: WorkgroupSize,
    /// True if the source calls subgroup operations.
    pub subgroups: bool,
    /// True if the source has buffers of quads; without, all its buffers are words.
    pub quads: bool,
}

impl ShaderFile {
    /// Invocations to a workgroup unless declared otherwise.
    pub const WORKGROUP_SIZE: usize = 64;

    /// A file of words for any adapter, with [`ShaderFile::WORKGROUP_SIZE`] invocations to a workgroup and without helpers.
    pub const fn new(name: &'static str, source: &'static str) -> ShaderFile {
        let workgroup_size = WorkgroupSize::Count(Self::WORKGROUP_SIZE as u32);
        ShaderFile { name, source, helpers: &[], workgroup_size, subgroups: false, quads: false }
    }

    /// The same with helpers.
    pub const fn helpers(self, helpers: &'static [&'static str]) -> ShaderFile {
        ShaderFile { helpers, ..self }
    }

    /// The same with other workgroups.
    pub const fn workgroup_size(self, workgroup_size: WorkgroupSize) -> ShaderFile {
        ShaderFile { workgroup_size, ..self }
    }

    /// The same with buffers of quads.
    pub const fn quads(self) -> ShaderFile {
        ShaderFile { quads: true, ..self }
    }

    /// The same with subgroup operations; a workgroup is one subgroup of SUB invocations.
    pub const fn subgroups(self) -> ShaderFile {
        ShaderFile { subgroups: true, workgroup_size: WorkgroupSize::Constant("SUB"), ..self }
    }

    /// The entry point of these tensors in this file.
    pub const fn kernel<T: Tensors>(&'static self) -> Kernel {
        let (params, uniform_bytes) = (T::Params::FIELDS, T::Params::BYTES);
        Kernel { file: self, entry: T::ENTRY, bindings: T::BINDINGS, params, uniform_bytes }
    }
}

/// The one declaration of a WGSL entry point; a test compares it with what naga reads in the source.
#[derive(Debug, Clone, Copy)]
pub struct Kernel {
    /// Where it is written.
    pub file: &'static ShaderFile,
    /// Entry point.
    pub entry: &'static str,
    /// Storage buffers, in binding order from 1 on.
    pub bindings: &'static [Binding],
    /// Members of the uniform block at binding 0.
    pub params: &'static [Field],
    /// Size of that block, in bytes.
    pub uniform_bytes: usize,
}

impl Kernel {
    /// True if it multiplies on the adapter's matrix units.
    pub fn multiplies_fragments(&self) -> bool {
        self.file.source.contains("enable wgpu_cooperative_matrix;")
    }

    /// The ways in which weights and activations may lie in memory for this entry point: f32 alone if it touches no quads.
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
/// First comes the block, with its size in the WGSL: it becomes a struct. Then each entry point with its storage buffers in
/// binding order: it becomes a struct of its name with a tensor for each, to be handed to [`ShaderFile::launch`]. `if` makes a tensor
/// an option, and names the override that is true where there is one, or `_` where no override hangs on it.
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

/// Values for `const NAME: u32 = …;` lines: what sizes arrays and workgroups.
pub type Constants = Vec<(&'static str, u32)>;

/// Values for `override` declarations: switches that size nothing.
pub type Overrides = Vec<(&'static str, f64)>;

/// The WGSL text of a kernel with its constants replaced, its helpers appended and the directive that its storage needs in
/// front, on the first line: line numbers stay those of the file.
///
/// # Panics
/// If a constant's line isn't in the source exactly once: the declaration and the file have drifted apart.
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
