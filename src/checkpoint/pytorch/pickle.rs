//! An inert reader of pickles: builds plain values, and executes nothing.
//!
//! A pickle is a program for a stack machine. Three of its operations call functions by name. This reader knows the
//! functions that rebuild tensors, and a list of harmless classes, whose objects it reads past. Any other name is
//! refused. Memory is bounded by [`MAX_BYTES`] and [`MAX_VALUES`], whatever lengths a pickle claims.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, Read};

use crate::checkpoint::safetensors::byte_width;

/// Largest pickle. That of a ViT with its optimiser has about 1 MB; the numbers of tensors are outside.
pub(super) const MAX_BYTES: u64 = 64 << 20;

/// Largest number of values on the stack and in containers, over the whole pickle.
const MAX_VALUES: usize = 1 << 20;

/// Longest line of a text operation.
const MAX_LINE: u64 = 1 << 16;

/// Index of a value.
pub(super) type Id = usize;

/// The value without meaning for weights: None, booleans, floats, bytes, and objects of harmless classes.
const OTHER: Id = 0;

/// A value. Containers hold indices, so that shared and recursive values need no copies.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Other,
    Integer(i128),
    Text(Box<str>),
    /// A list or a tuple.
    Sequence(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Name(Name),
    Storage(Storage),
    Tensor(Box<Tensor>),
}

/// A storage that tensors share: a run of numbers outside of the pickle.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Storage {
    /// Element type in the spelling of safetensors.
    pub(super) dtype: &'static str,
    /// Name in the file, a text.
    pub(super) key: Id,
    /// Number of elements.
    pub(super) count: u64,
    /// First element of tensors, for old files in which a storage may be a view of another one.
    pub(super) first: u64,
}

/// A tensor: a strided view of a storage. Nothing of it has been checked.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Tensor {
    pub(super) storage: Storage,
    /// First element in the storage.
    pub(super) offset: i128,
    pub(super) shape: Vec<i128>,
    /// Elements between neighbours, for each dimension.
    pub(super) stride: Vec<i128>,
}

/// A name that a pickle may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Name {
    /// A class whose objects have no meaning for weights.
    Harmless,
    /// A dictionary.
    Dict,
    /// `torch.Size`, a tuple.
    Size,
    /// A storage of this element type.
    Storage(&'static str),
    /// `_rebuild_tensor` and `_rebuild_tensor_v2`.
    Tensor,
    /// `_rebuild_parameter`, which returns its first argument.
    Parameter,
    /// `_rebuild_from_type_v2`, which calls its first argument.
    FromType,
}

/// Names of dictionaries.
const DICTS: [&str; 4] =
    ["builtins.dict", "collections.Counter", "collections.OrderedDict", "collections.defaultdict"];

/// Names of harmless classes and functions.
const HARMLESS: [&str; 34] = [
    "_codecs.encode",
    "argparse.Namespace",
    "builtins.bool",
    "builtins.bytearray",
    "builtins.complex",
    "builtins.float",
    "builtins.frozenset",
    "builtins.int",
    "builtins.list",
    "builtins.object",
    "builtins.range",
    "builtins.set",
    "builtins.slice",
    "builtins.str",
    "builtins.tuple",
    "collections.deque",
    "copyreg._reconstructor",
    "numpy._core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar",
    "numpy.core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy.dtype",
    "numpy.ndarray",
    "pathlib.Path",
    "pathlib.PosixPath",
    "pathlib.PurePosixPath",
    "pathlib.PureWindowsPath",
    "pathlib.WindowsPath",
    "pathlib._local.PosixPath",
    "pathlib._local.WindowsPath",
    "torch.Tensor",
    "torch.device",
    "torch.nn.parameter.Parameter",
    "torch.torch_version.TorchVersion",
];

/// Element types: the name of PyTorch's storage before `Storage`, names of the type, and the one in safetensors.
const DTYPES: [(&str, &[&str], &str); 10] = [
    ("Float", &["float32", "float"], "F32"),
    ("Half", &["float16", "half"], "F16"),
    ("BFloat16", &["bfloat16"], "BF16"),
    ("Double", &["float64", "double"], "F64"),
    ("Long", &["int64", "long"], "I64"),
    ("Int", &["int32", "int"], "I32"),
    ("Short", &["int16", "short"], "I16"),
    ("Char", &["int8"], "I8"),
    ("Byte", &["uint8"], "U8"),
    ("Bool", &["bool"], "BOOL"),
];

impl Name {
    /// Looks a name up on the lists.
    fn find(module: &str, name: &str) -> Option<Name> {
        // The names of Python 2, which PyTorch writes.
        let module = match module {
            "__builtin__" => "builtins",
            "copy_reg" => "copyreg",
            module => module,
        };
        let full = format!("{module}.{name}");
        match full.as_str() {
            "torch.Size" => return Some(Name::Size),
            "torch._utils._rebuild_tensor" | "torch._utils._rebuild_tensor_v2" => return Some(Name::Tensor),
            "torch._utils._rebuild_parameter" | "torch._utils._rebuild_parameter_with_state" => {
                return Some(Name::Parameter);
            }
            "torch._tensor._rebuild_from_type_v2" => return Some(Name::FromType),
            full if DICTS.contains(&full) => return Some(Name::Dict),
            full if HARMLESS.contains(&full) => return Some(Name::Harmless),
            _ => {}
        }
        if !matches!(module, "torch" | "torch.cuda") {
            return None;
        }
        DTYPES.iter().find_map(|(class, types, dtype)| {
            if name.strip_suffix("Storage") == Some(class) {
                return Some(Name::Storage(dtype));
            }
            types.contains(&name).then_some(Name::Harmless)
        })
    }
}

/// Reason why a pickle isn't read.
#[derive(Debug, PartialEq)]
pub(super) enum Fault {
    /// It is cut off, contradicts itself or is too large.
    Damaged(String),
    /// It would call or build something that is on no list.
    Refused(String),
}

type Result<T> = std::result::Result<T, Fault>;

/// Error of a pickle that contradicts itself.
fn damaged<T>(reason: impl Into<String>) -> Result<T> {
    Err(Fault::Damaged(reason.into()))
}

/// Error of a name or an operation on no list.
fn refused<T>(what: &str) -> Result<T> {
    Err(Fault::Refused(what.to_string()))
}

/// A pickle's values.
#[derive(Debug)]
pub(super) struct Pickle {
    values: Vec<Value>,
    root: Id,
}

impl Pickle {
    /// Reads one pickle, and leaves `input` after it.
    ///
    /// # Errors
    /// The reason, if it isn't read.
    pub(super) fn read(input: &mut impl BufRead) -> Result<Pickle> {
        let mut machine = Machine {
            input: input.take(MAX_BYTES),
            values: vec![Value::Other],
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
            spent: 0,
        };
        match machine.run() {
            Ok(root) => Ok(Pickle { values: machine.values, root }),
            Err(Fault::Damaged(reason)) => damaged(format!("its pickle can't be read: {reason}")),
            Err(refused) => Err(refused),
        }
    }

    /// The value that the pickle holds.
    pub(super) fn root(&self) -> Id {
        self.root
    }

    pub(super) fn value(&self, id: Id) -> &Value {
        &self.values[id]
    }

    /// Returns the text of a value.
    pub(super) fn text(&self, id: Id) -> Option<&str> {
        if let Value::Text(text) = &self.values[id] { Some(text) } else { None }
    }

    /// Returns the entries of a dictionary with text as their keys; `None` for another value. The last of equal keys
    /// counts.
    pub(super) fn entries(&self, id: Id) -> Option<BTreeMap<&str, Id>> {
        let Value::Dict(pairs) = &self.values[id] else { return None };
        Some(pairs.iter().filter_map(|&(key, value)| Some((self.text(key)?, value))).collect())
    }

    /// Bytes of an element of each storage, by key.
    pub(super) fn widths(&self) -> BTreeMap<&str, u64> {
        let storages = self.values.iter().filter_map(|value| match value {
            Value::Storage(storage) => Some((self.text(storage.key)?, byte_width(storage.dtype)?)),
            _ => None,
        });
        storages.collect()
    }

    /// All texts of the pickle.
    pub(super) fn texts(&self) -> impl Iterator<Item = &str> {
        self.values.iter().filter_map(|value| match value {
            Value::Text(text) => Some(&**text),
            _ => None,
        })
    }

    /// Makes the marks of [`Pickle::tensors`].
    pub(super) fn unseen(&self) -> Vec<bool> {
        vec![false; self.values.len()]
    }

    /// Counts the tensors below a value that are not marked as seen, and marks them.
    pub(super) fn tensors(&self, id: Id, seen: &mut [bool]) -> usize {
        let (mut count, mut open) = (0, vec![id]);
        while let Some(id) = open.pop() {
            if std::mem::replace(&mut seen[id], true) {
                continue;
            }
            match &self.values[id] {
                Value::Tensor(_) => count += 1,
                Value::Sequence(items) => open.extend(items),
                Value::Dict(pairs) => open.extend(pairs.iter().map(|(_, value)| value)),
                _ => {}
            }
        }
        count
    }
}

/// The stack machine.
struct Machine<R> {
    input: R,
    values: Vec<Value>,
    stack: Vec<Id>,
    /// Lengths of the stack at the open marks.
    marks: Vec<usize>,
    memo: HashMap<u64, Id>,
    /// Number of values so far.
    spent: usize,
}

impl<R: BufRead> Machine<R> {
    fn run(&mut self) -> Result<Id> {
        loop {
            let [operation] = self.array()?;
            if operation == b'.' {
                return self.pop();
            }
            self.step(operation)?;
        }
    }

    /// Executes an operation other than the last.
    fn step(&mut self, operation: u8) -> Result<()> {
        match operation {
            // Protocol and frames: sizes that this reader doesn't need.
            0x80 => self.skip(1),
            0x95 => self.skip(8),
            b'(' => {
                self.spend(1)?;
                self.marks.push(self.stack.len());
                Ok(())
            }
            b'0' => match self.marks.last() {
                Some(&mark) if mark == self.stack.len() => self.since_mark().map(drop),
                _ => self.pop().map(drop),
            },
            b'1' => self.since_mark().map(drop),
            b'2' => {
                let top = self.top()?;
                self.push(top)
            }
            // None, booleans, floats.
            b'N' | 0x88 | 0x89 => self.push(OTHER),
            b'F' => {
                self.line()?;
                self.push(OTHER)
            }
            b'G' => {
                self.skip(8)?;
                self.push(OTHER)
            }
            b'I' | b'L' => {
                let line = self.line()?;
                match line.trim_end_matches('L').parse() {
                    Ok(number) => self.make(Value::Integer(number)),
                    Err(_) => damaged("a number that isn't one"),
                }
            }
            b'J' => {
                let number = i32::from_le_bytes(self.array()?);
                self.make(Value::Integer(number.into()))
            }
            b'K' => {
                let [number] = self.array()?;
                self.make(Value::Integer(number.into()))
            }
            b'M' => {
                let number = u16::from_le_bytes(self.array()?);
                self.make(Value::Integer(number.into()))
            }
            0x8a => {
                let [length] = self.array()?;
                self.long(length.into())
            }
            0x8b => {
                let length = u32::from_le_bytes(self.array()?);
                self.long(length.into())
            }
            b'S' | b'V' => {
                let line = self.line()?;
                let quoted = |quote| line.strip_prefix(quote)?.strip_suffix(quote);
                let text = if operation == b'V' { Some(&*line) } else { quoted('\'').or(quoted('"')) };
                // Names of tensors need no escapes.
                match text.filter(|text| !text.contains('\\')) {
                    Some(text) => self.make(Value::Text(text.into())),
                    None => self.push(OTHER),
                }
            }
            // Strings and bytes by the size of their length. Names of Python 2 are bytes.
            b'U' | 0x8c | b'C' => {
                let [length] = self.array()?;
                self.string(operation, length.into())
            }
            b'T' | b'X' | b'B' => {
                let length = u32::from_le_bytes(self.array()?);
                self.string(operation, length.into())
            }
            0x8d | 0x8e | 0x96 => {
                let length = u64::from_le_bytes(self.array()?);
                self.string(operation, length)
            }
            b']' | b')' => self.make(Value::Sequence(Vec::new())),
            b'l' | b't' => {
                let items = self.since_mark()?;
                self.make(Value::Sequence(items))
            }
            0x85..=0x87 => {
                let mut items = vec![OTHER; (operation - 0x84).into()];
                for item in items.iter_mut().rev() {
                    *item = self.pop()?;
                }
                self.make(Value::Sequence(items))
            }
            b'a' => {
                let item = self.pop()?;
                self.append(vec![item])
            }
            b'e' | 0x90 => {
                let items = self.since_mark()?;
                self.append(items)
            }
            b'}' => self.make(Value::Dict(Vec::new())),
            b'd' => {
                let items = self.since_mark()?;
                self.make(Value::Dict(Vec::new()))?;
                self.set(&items)
            }
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.set(&[key, value])
            }
            b'u' => {
                let items = self.since_mark()?;
                self.set(&items)
            }
            // Sets.
            0x8f => self.push(OTHER),
            0x91 => {
                self.since_mark()?;
                self.push(OTHER)
            }
            b'p' => {
                let line = self.line()?;
                let slot = line.parse().or_else(|_| damaged("a memo without a number"))?;
                self.remember(slot)
            }
            b'q' => {
                let [slot] = self.array()?;
                self.remember(slot.into())
            }
            b'r' => {
                let slot = u32::from_le_bytes(self.array()?);
                self.remember(slot.into())
            }
            0x94 => self.remember(self.memo.len() as u64),
            b'g' => {
                let line = self.line()?;
                let slot = line.parse().or_else(|_| damaged("a memo without a number"))?;
                self.recall(slot)
            }
            b'h' => {
                let [slot] = self.array()?;
                self.recall(slot.into())
            }
            b'j' => {
                let slot = u32::from_le_bytes(self.array()?);
                self.recall(slot.into())
            }
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.name(&module, &name)
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                match (&self.values[module], &self.values[name]) {
                    (Value::Text(module), Value::Text(name)) => {
                        let (module, name) = (module.clone(), name.clone());
                        self.name(&module, &name)
                    }
                    _ => damaged("a name that isn't text"),
                }
            }
            b'i' => {
                let (module, name) = (self.line()?, self.line()?);
                self.name(&module, &name)?;
                let class = self.pop()?;
                let arguments = self.since_mark()?;
                self.call(class, arguments)
            }
            b'o' => {
                let items = self.since_mark()?;
                match items.split_first() {
                    Some((&class, arguments)) => self.call(class, arguments.to_vec()),
                    None => damaged("an object without a class"),
                }
            }
            b'R' | 0x81 | 0x92 => {
                // Keywords.
                if operation == 0x92 {
                    self.pop()?;
                }
                let (arguments, function) = (self.pop()?, self.pop()?);
                match &self.values[arguments] {
                    Value::Sequence(items) => {
                        let items = items.clone();
                        self.spend(items.len())?;
                        self.call(function, items)
                    }
                    _ => damaged("arguments that aren't a tuple"),
                }
            }
            // The state of an object.
            b'b' => {
                self.pop()?;
                let object = self.top()?;
                match self.values[object] {
                    Value::Other | Value::Dict(_) | Value::Sequence(_) => Ok(()),
                    _ => refused("the state of a class or a tensor"),
                }
            }
            b'Q' => {
                let place = self.pop()?;
                let storage = self.storage(place)?;
                self.make(Value::Storage(storage))
            }
            b'P' => refused("a persistent object by its text"),
            0x82..=0x84 => refused("an extension of another program"),
            0x97 | 0x98 => refused("a buffer outside of the file"),
            other => damaged(format!("{other:#04x} is no operation of a pickle")),
        }
    }

    /// Reads past a number of bytes.
    fn skip(&mut self, count: u64) -> Result<()> {
        let copied = std::io::copy(&mut self.input.by_ref().take(count), &mut std::io::sink());
        if copied.is_ok_and(|copied| copied == count) { Ok(()) } else { self.cut() }
    }

    /// Error at the end of the input.
    fn cut<T>(&self) -> Result<T> {
        damaged(format!("cut off, or more than {} MiB long", MAX_BYTES >> 20))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        match self.input.read_exact(&mut bytes) {
            Ok(()) => Ok(bytes),
            Err(_) => self.cut(),
        }
    }

    /// Reads a line of text, without its end.
    fn line(&mut self) -> Result<String> {
        let mut bytes = Vec::new();
        let read = self.input.by_ref().take(MAX_LINE).read_until(b'\n', &mut bytes);
        if read.is_err() || bytes.pop() != Some(b'\n') {
            return if bytes.len() as u64 + 1 >= MAX_LINE {
                damaged("a line without an end")
            } else {
                self.cut()
            };
        }
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
        String::from_utf8(bytes).or_else(|_| damaged("a line that isn't UTF-8"))
    }

    /// Reads a string. It grows with the bytes that are there, not with the length that is claimed.
    fn string(&mut self, operation: u8, length: u64) -> Result<()> {
        // Bytes, except for names of Python 2.
        if matches!(operation, b'B' | b'C' | 0x8e | 0x96) {
            self.skip(length)?;
            return self.push(OTHER);
        }
        let mut bytes = Vec::new();
        let read = self.input.by_ref().take(length).read_to_end(&mut bytes);
        if read.is_err() || bytes.len() as u64 != length {
            return self.cut();
        }
        match String::from_utf8(bytes) {
            Ok(text) => self.make(Value::Text(text.into())),
            Err(_) => self.push(OTHER),
        }
    }

    /// Reads an integer of a number of bytes.
    fn long(&mut self, length: u64) -> Result<()> {
        if length > 16 {
            self.skip(length)?;
            return self.push(OTHER);
        }
        let mut bytes = [0; 16];
        let used = &mut bytes[..length as usize];
        if self.input.read_exact(used).is_err() {
            return self.cut();
        }
        let negative = used.last().is_some_and(|last| last & 0x80 != 0);
        if negative {
            bytes[length as usize..].fill(0xff);
        }
        self.make(Value::Integer(i128::from_le_bytes(bytes)))
    }

    /// Counts values, so that few bytes can't make many of them.
    fn spend(&mut self, count: usize) -> Result<()> {
        self.spent = self.spent.saturating_add(count);
        if self.spent > MAX_VALUES { damaged(format!("more than {MAX_VALUES} values")) } else { Ok(()) }
    }

    fn push(&mut self, id: Id) -> Result<()> {
        self.spend(1)?;
        self.stack.push(id);
        Ok(())
    }

    fn make(&mut self, value: Value) -> Result<()> {
        self.values.push(value);
        self.push(self.values.len() - 1)
    }

    fn top(&self) -> Result<Id> {
        match self.stack.last() {
            Some(&id) if self.marks.last().is_none_or(|&mark| self.stack.len() > mark) => Ok(id),
            _ => damaged("an operation without a value"),
        }
    }

    fn pop(&mut self) -> Result<Id> {
        let id = self.top()?;
        self.stack.pop();
        Ok(id)
    }

    /// Takes the values since the last mark.
    fn since_mark(&mut self) -> Result<Vec<Id>> {
        match self.marks.pop() {
            Some(mark) => Ok(self.stack.split_off(mark)),
            None => damaged("an operation without a mark"),
        }
    }

    fn remember(&mut self, slot: u64) -> Result<()> {
        self.spend(1)?;
        let top = self.top()?;
        self.memo.insert(slot, top);
        Ok(())
    }

    fn recall(&mut self, slot: u64) -> Result<()> {
        match self.memo.get(&slot) {
            Some(&id) => self.push(id),
            None => damaged(format!("nothing in memo {slot}")),
        }
    }

    fn append(&mut self, items: Vec<Id>) -> Result<()> {
        let list = self.top()?;
        match &mut self.values[list] {
            Value::Sequence(found) => found.extend(items),
            Value::Other => {}
            _ => return damaged("items of something that isn't a list"),
        }
        Ok(())
    }

    /// Sets entries: keys and values in turn.
    fn set(&mut self, items: &[Id]) -> Result<()> {
        let (pairs, rest) = items.as_chunks::<2>();
        let dict = self.top()?;
        match &mut self.values[dict] {
            Value::Dict(found) if rest.is_empty() => {
                found.extend(pairs.iter().map(|&[key, value]| (key, value)))
            }
            Value::Other if rest.is_empty() => {}
            _ => return damaged("entries of something that isn't a dictionary"),
        }
        Ok(())
    }

    fn name(&mut self, module: &str, name: &str) -> Result<()> {
        match Name::find(module, name) {
            Some(name) => self.make(Value::Name(name)),
            None => refused(
                &format!("{module}.{name}").chars().take(200).collect::<String>().escape_debug().to_string(),
            ),
        }
    }

    /// Replaces a call by its result, which is known without a call.
    fn call(&mut self, function: Id, arguments: Vec<Id>) -> Result<()> {
        let Value::Name(name) = self.values[function] else {
            return refused("a call of something that isn't a name");
        };
        let first = arguments.first().copied();
        match name {
            Name::Harmless => self.push(OTHER),
            Name::Dict => self.dict(first),
            Name::Size => match first {
                Some(sizes) => self.push(sizes),
                None => self.make(Value::Sequence(Vec::new())),
            },
            Name::Tensor => {
                let tensor = self.tensor(&arguments)?;
                self.spend(tensor.shape.len() + tensor.stride.len())?;
                self.make(Value::Tensor(Box::new(tensor)))
            }
            Name::Parameter => match first {
                Some(tensor) if matches!(self.values[tensor], Value::Tensor(_)) => self.push(tensor),
                _ => damaged("a parameter that isn't a tensor"),
            },
            Name::FromType => match arguments[..] {
                [function, _, arguments, ..] => match (&self.values[function], &self.values[arguments]) {
                    (Value::Name(Name::Tensor | Name::Parameter), Value::Sequence(items)) => {
                        let items = items.clone();
                        self.spend(items.len())?;
                        self.call(function, items)
                    }
                    _ => refused("a tensor of another class"),
                },
                _ => damaged("a tensor without arguments"),
            },
            Name::Storage(_) => refused("a storage without a place in the file"),
        }
    }

    /// Makes a dictionary of another one, of a list of pairs, or of nothing.
    fn dict(&mut self, first: Option<Id>) -> Result<()> {
        match first.map(|first| (first, &self.values[first])) {
            Some((first, Value::Dict(_))) => self.push(first),
            Some((_, Value::Sequence(items))) => {
                let pair = |item: &Id| match &self.values[*item] {
                    Value::Sequence(pair) => <[Id; 2]>::try_from(&pair[..]).ok(),
                    _ => None,
                };
                let pairs: Option<Vec<(Id, Id)>> =
                    items.iter().map(|item| Some(pair(item)?.into())).collect();
                let Some(pairs) = pairs else { return damaged("entries that aren't pairs") };
                self.spend(pairs.len())?;
                self.make(Value::Dict(pairs))
            }
            _ => self.make(Value::Dict(Vec::new())),
        }
    }

    /// Reads the place of a storage: ("storage", class, key, device, elements), in old files with a view.
    fn storage(&self, place: Id) -> Result<Storage> {
        let wrong = || damaged("a persistent object that isn't a storage");
        let size = |id: Id| self.number(id).and_then(|number| u64::try_from(number).ok());
        let Value::Sequence(items) = &self.values[place] else { return wrong() };
        let (kind, view) = match items[..] {
            [kind, class, key, device, count] => ([kind, class, key, device, count], None),
            [kind, class, key, device, count, view] => ([kind, class, key, device, count], Some(view)),
            _ => return wrong(),
        };
        let key = kind[2];
        let [kind, class, name, device, _] = kind.map(|id| &self.values[id]);
        let (Value::Text(kind), Value::Name(Name::Storage(dtype)), Value::Text(_), Value::Text(_)) =
            (kind, class, name, device)
        else {
            return wrong();
        };
        let (Some(count), "storage") = (size(items[4]), &**kind) else { return wrong() };
        // (key of the view, first element, elements)
        let first = match view.map(|view| &self.values[view]) {
            Some(Value::Sequence(view)) => match view[..] {
                [_, first, _] => size(first),
                _ => None,
            },
            _ => Some(0),
        };
        match first {
            Some(first) => Ok(Storage { dtype, key, count, first }),
            None => wrong(),
        }
    }

    /// Reads the arguments of a tensor: storage, offset, shape, stride, and what weights don't need.
    fn tensor(&self, arguments: &[Id]) -> Result<Tensor> {
        let numbers = |id: Id| match &self.values[id] {
            Value::Sequence(items) if items.len() <= 16 => {
                items.iter().map(|&item| self.number(item)).collect::<Option<Vec<i128>>>()
            }
            _ => None,
        };
        let [storage, offset, shape, stride, ..] = *arguments else {
            return damaged("a tensor with too few arguments");
        };
        match (&self.values[storage], self.number(offset), numbers(shape), numbers(stride)) {
            (Value::Storage(storage), Some(offset), Some(shape), Some(stride)) => {
                Ok(Tensor { storage: *storage, offset, shape, stride })
            }
            _ => damaged("a tensor with arguments of another kind"),
        }
    }

    fn number(&self, id: Id) -> Option<i128> {
        if let Value::Integer(number) = self.values[id] { Some(number) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Pickle {
        Pickle::read(&mut &bytes[..]).unwrap()
    }

    #[test]
    fn names_are_sorted_and_on_one_list() {
        assert!(HARMLESS.is_sorted() && DICTS.is_sorted());
        assert!(DICTS.iter().all(|name| !HARMLESS.contains(name)));
        assert_eq!(Name::find("torch", "BFloat16Storage"), Some(Name::Storage("BF16")));
        assert_eq!(Name::find("torch.cuda", "LongStorage"), Some(Name::Storage("I64")));
        assert_eq!(Name::find("torch", "float16"), Some(Name::Harmless));
        assert_eq!(Name::find("__builtin__", "set"), Some(Name::Harmless));
        for (module, name) in
            [("torch", "Storage"), ("torch", "load"), ("os", "float32"), ("torch.cuda", "init"), ("", "")]
        {
            assert_eq!(Name::find(module, name), None, "{module}.{name}");
        }
    }

    #[test]
    fn integers_have_every_length() {
        for (bytes, number) in [
            (&b"K\xff."[..], 255),
            (b"M\x01\x02.", 0x201),
            (b"J\xfe\xff\xff\xff.", -2),
            (b"I-12\n.", -12),
            (b"L7L\r\n.", 7),
            (b"\x8a\0.", 0),
            (b"\x8a\x01\x80.", -128),
            (b"\x8a\x02\xff\0.", 255),
            (b"\x8b\x01\0\0\0\x05.", 5),
        ] {
            let pickle = read(bytes);
            assert_eq!(pickle.value(pickle.root()), &Value::Integer(number), "{bytes:?}");
        }
        let wide = [&b"\x8a\x11"[..], &[1; 17], b"."].concat();
        assert_eq!(read(&wide).value(read(&wide).root()), &Value::Other);
    }

    #[test]
    fn dictionaries_of_old_protocols_are_read() {
        // Text of protocol 0, strings of Python 2, and an ordered dictionary of a list of pairs.
        for bytes in [
            &b"(dp0\nVa\np1\nI1\nsS'b'\nI2\ns."[..],
            b"\x80\x02}(U\x01aK\x01T\x01\0\0\0bK\x02u.",
            b"ccollections\nOrderedDict\n((lp0\n(lp1\nS'a'\naI1\naa(lp2\nVb\naI2\naatR.",
            b"\x80\x02(ccollections\nOrderedDict\no(X\x01\0\0\0aK\x01X\x01\0\0\0bK\x01X\x01\0\0\0bK\x02u}b.",
        ] {
            let pickle = read(bytes);
            let entries = pickle.entries(pickle.root()).unwrap();
            let numbers: Vec<_> = entries.iter().map(|(key, id)| (*key, pickle.value(*id).clone())).collect();
            assert_eq!(numbers, [("a", Value::Integer(1)), ("b", Value::Integer(2))], "{bytes:?}");
        }
    }

    #[test]
    fn objects_of_harmless_classes_are_read_past() {
        for bytes in [
            &b"\x80\x02cargparse\nNamespace\n)\x81}U\x01aG\0\0\0\0\0\0\0\0sb."[..],
            b"\x80\x04\x8c\x08argparse\x8c\x09Namespace\x93)}\x92\x94}b.",
            b"ccopy_reg\n_reconstructor\n(cargparse\nNamespace\nc__builtin__\nobject\nNtR(dS'a\\x00'\nF1.5\nsb.",
            b"\x80\x02cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(U\x02f8K\0K\x01tR(K\x03tbC\x01xtR.",
            b"\x80\x04\x8f(K\x01\x90.",
            b"\x80\x04(K\x01\x91.",
            b"\x80\x02c__builtin__\nset\n]\x85RN0.",
            b"ipathlib\nPosixPath\n.",
        ] {
            let whole = if bytes[0] == b'i' { [b"(", bytes].concat() } else { bytes.to_vec() };
            assert_eq!(read(&whole).value(read(&whole).root()), &Value::Other, "{bytes:?}");
        }
    }

    #[test]
    fn views_of_storages_move_their_tensors() {
        let of = |view: &str| {
            let text = format!(
                "ctorch._utils\n_rebuild_tensor\n((S'storage'\nctorch\nHalfStorage\nS'7'\nS'cpu'\nI8\n{view}tQI1\n(I2\nt(I1\nttR."
            );
            let pickle = read(text.as_bytes());
            let Value::Tensor(tensor) = pickle.value(pickle.root()) else { panic!("{text}") };
            assert_eq!(pickle.text(tensor.storage.key), Some("7"));
            assert_eq!(pickle.widths()["7"], 2);
            (tensor.storage.first, tensor.offset, tensor.shape.clone())
        };
        assert_eq!(of(""), (0, 1, vec![2]));
        assert_eq!(of("N"), (0, 1, vec![2]));
        assert_eq!(of("(S'9'\nI3\nI4\nt"), (3, 1, vec![2]));
    }
}
