//! A kernel's declaration, and how its WGSL source is assembled.

use std::borrow::Cow;

/// What an entry point does with a storage buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// `var<storage, read>`.
    Read,
    /// `var<storage, read_write>`, of which every element is written.
    Write,
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
    /// What the kernel does with it.
    pub access: Access,
    /// Whether it holds quads, which a [`Storage`] may narrow; else words.
    pub quads: bool,
}

impl Binding {
    /// A buffer that the kernel reads.
    pub const fn read(name: &'static str) -> Self {
        Binding { name, access: Access::Read, quads: false }
    }

    /// A buffer that the kernel writes.
    pub const fn write(name: &'static str) -> Self {
        Binding { name, access: Access::Write, quads: false }
    }

    /// The same buffer as one of quads: four neighbouring elements each, in the launch's [`Storage`].
    pub const fn in_quads(self) -> Self {
        Binding { quads: true, ..self }
    }
}

/// The one declaration of a WGSL entry point; a test compares it with what naga reads in the source.
#[derive(Debug)]
pub struct Kernel {
    /// File name in `shaders/` without `.wgsl`.
    pub name: &'static str,
    /// The file's text.
    pub source: &'static str,
    /// Whole WGSL files that are appended to it.
    pub helpers: &'static [&'static str],
    /// Entry point.
    pub entry: &'static str,
    /// Storage buffers, in binding order from 1 on.
    pub bindings: &'static [Binding],
    /// Size of the uniform block at binding 0, in bytes.
    pub uniform_bytes: usize,
    /// Whether the source calls subgroup operations.
    pub subgroups: bool,
    /// Whether the source has buffers of quads; without, all its buffers are words.
    pub quads: bool,
}

impl Kernel {
    /// Whether it multiplies on the adapter's matrix units.
    pub fn multiplies_fragments(&self) -> bool {
        self.source.contains("enable wgpu_cooperative_matrix;")
    }

    /// The ways in which weights and activations may lie in memory for this entry point: f32 alone if it touches no quads.
    pub fn storages(&self) -> &'static [Storage] {
        let has_quads = self.quads && self.bindings.iter().any(|binding| binding.quads);
        match (has_quads, self.multiplies_fragments()) {
            (false, _) => &[Storage::F32],
            (true, false) => &Storage::ALL,
            (true, true) => &[Storage::F16],
        }
    }
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
    let mut text: Cow<'_, str> = Cow::Borrowed(kernel.source);
    for (name, value) in constants {
        let head = format!("const {name}: u32 = ");
        let mut found = text.match_indices(&head);
        let (at, _) = found.next().unwrap_or_else(|| panic!("{}.wgsl has no line `{head}…`", kernel.name));
        assert!(found.next().is_none(), "{}.wgsl has more than one line `{head}…`", kernel.name);
        let start = at + head.len();
        let end = start
            + text[start..].find(';').unwrap_or_else(|| panic!("{}.wgsl: `{head}` has no end", kernel.name));
        text = Cow::Owned(format!("{}{value}{}", &text[..start], &text[end..]));
    }
    let mut text = text.into_owned();
    for helper in kernel.helpers.iter().copied().chain(kernel.quads.then(|| storage.helper())) {
        text.push('\n');
        text.push_str(helper);
    }
    if kernel.quads && storage == Storage::F16 {
        text.insert_str(0, "enable f16; ");
    }
    text
}
