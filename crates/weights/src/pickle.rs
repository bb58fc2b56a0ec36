//! As much of Python's pickle as a dictionary of tensors takes: nothing is imported, called or built that is not named
//! here, so that a file can do no more than describe tensors.
//!
//! Values live in one list and refer to each other by number: nesting, however deep or circular, costs neither stack
//! nor copies, and all the memory used is a small multiple of the pickle's own length.

use std::collections::HashMap;
use std::io::{BufRead, Read};

use safetensors::Dtype;

/// The longest pickle that is read: it holds names and shapes, not the values.
pub(crate) const MAX_PICKLE: u64 = 64 << 20;

/// What a pickle may name.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Global {
    /// `collections.OrderedDict`
    OrderedDict,
    /// `torch._utils._rebuild_tensor_v2`
    RebuildTensor,
    /// `torch._utils._rebuild_parameter`
    RebuildParameter,
    /// `torch.FloatStorage` and the like
    Storage(Dtype),
}

impl Global {
    fn find(module: &str, name: &str) -> Option<Self> {
        match (module, name) {
            ("collections", "OrderedDict") => Some(Self::OrderedDict),
            ("torch._utils", "_rebuild_tensor_v2") => Some(Self::RebuildTensor),
            ("torch._utils", "_rebuild_parameter") => Some(Self::RebuildParameter),
            ("torch", storage) => {
                let dtype = match storage.strip_suffix("Storage")? {
                    "Float" => Dtype::F32,
                    "Double" => Dtype::F64,
                    "Half" => Dtype::F16,
                    "BFloat16" => Dtype::BF16,
                    "Long" => Dtype::I64,
                    "Int" => Dtype::I32,
                    "Short" => Dtype::I16,
                    "Char" => Dtype::I8,
                    "Byte" => Dtype::U8,
                    "Bool" => Dtype::BOOL,
                    _ => return None,
                };
                Some(Self::Storage(dtype))
            }
            _ => None,
        }
    }
}

/// A value, or the number of one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Value {
    Mark,
    None,
    Bool(bool),
    Int(i64),
    Float,
    Global(Global),
    Object(usize),
}

#[derive(Debug)]
pub(crate) enum Object {
    Text(String),
    Tuple(Vec<Value>),
    List(Vec<Value>),
    Dict(Vec<(Value, Value)>),
    Storage(Storage),
    Tensor(Box<PickledTensor>),
}

/// Values one after the other, in an archive's entry or at a file's end.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Storage {
    pub(crate) dtype: Dtype,
    /// What the file calls it: a text.
    pub(crate) key: Value,
    /// How many values there are.
    pub(crate) len: u64,
}

/// A view of a storage, all of which lies within it.
#[derive(Debug, Clone)]
pub(crate) struct PickledTensor {
    pub(crate) storage: Storage,
    /// In values, as the strides are.
    pub(crate) offset: u64,
    pub(crate) shape: Vec<usize>,
    pub(crate) strides: Vec<usize>,
}

/// A pickle's result and all that it refers to.
#[derive(Debug, Default)]
pub(crate) struct Pickle {
    objects: Vec<Object>,
    root: Option<Value>,
}

impl Pickle {
    /// Reads one pickle from where `reader` stands to its end.
    pub(crate) fn read(reader: &mut impl BufRead) -> Result<Self, String> {
        let mut machine =
            Machine { reader: reader.take(MAX_PICKLE), stack: vec![], memo: HashMap::new(), pickle: Self::default() };
        while machine.pickle.root.is_none() {
            machine.step()?;
        }
        Ok(machine.pickle)
    }

    /// The result.
    pub(crate) fn root(&self) -> Value {
        self.root.unwrap_or(Value::None)
    }

    pub(crate) fn object(&self, value: Value) -> Option<&Object> {
        match value {
            Value::Object(number) => self.objects.get(number),
            _ => None,
        }
    }

    pub(crate) fn text(&self, value: Value) -> Option<&str> {
        match self.object(value) {
            Some(Object::Text(text)) => Some(text),
            _ => None,
        }
    }

    fn tuple(&self, value: Value) -> Option<&[Value]> {
        match self.object(value) {
            Some(Object::Tuple(values)) => Some(values),
            _ => None,
        }
    }

    /// A tuple of integers that are sizes, one for each dimension.
    fn sizes(&self, value: Value) -> Option<Vec<usize>> {
        let size = |value: &Value| match *value {
            Value::Int(size) => usize::try_from(size).ok(),
            _ => None,
        };
        self.tuple(value).filter(|sizes| sizes.len() <= MAX_DIMENSIONS)?.iter().map(size).collect()
    }
}

/// The stack machine that a pickle is a program for.
struct Machine<R> {
    reader: R,
    stack: Vec<Value>,
    memo: HashMap<u32, Value>,
    pickle: Pickle,
}

impl<R: BufRead> Machine<R> {
    /// One instruction.
    fn step(&mut self) -> Result<(), String> {
        let [instruction] = self.bytes()?;
        match instruction {
            0x80 => match self.bytes()? {
                [2 | 3] => Ok(()),
                [protocol] => Err(format!("it uses pickle protocol {protocol}: save it again with torch's default, 2")),
            },
            b'.' => {
                self.pickle.root = Some(self.pop()?);
                Ok(())
            }
            b'(' => self.push(Value::Mark),
            b'N' => self.push(Value::None),
            0x88 => self.push(Value::Bool(true)),
            0x89 => self.push(Value::Bool(false)),
            b'K' => {
                let [byte] = self.bytes()?;
                self.push(Value::Int(byte.into()))
            }
            b'M' => {
                let bytes = self.bytes()?;
                self.push(Value::Int(u16::from_le_bytes(bytes).into()))
            }
            b'J' => {
                let bytes = self.bytes()?;
                self.push(Value::Int(i32::from_le_bytes(bytes).into()))
            }
            0x8a => self.long(),
            b'G' => {
                let [..] = self.bytes::<8>()?;
                self.push(Value::Float)
            }
            b'X' => {
                let length = u32::from_le_bytes(self.bytes()?);
                self.text(length.into())
            }
            b'c' => self.global(),
            b')' => self.object(Object::Tuple(vec![])),
            b']' => self.object(Object::List(vec![])),
            b'}' => self.object(Object::Dict(vec![])),
            b't' => {
                let values = self.pop_to_mark()?;
                self.object(Object::Tuple(values))
            }
            0x85..=0x87 => {
                let mut values = vec![Value::None; (instruction - 0x84) as usize];
                for value in values.iter_mut().rev() {
                    *value = self.pop()?;
                }
                self.object(Object::Tuple(values))
            }
            b'q' => {
                let [number] = self.bytes()?;
                self.remember(number.into())
            }
            b'r' => {
                let number = u32::from_le_bytes(self.bytes()?);
                self.remember(number)
            }
            b'h' => {
                let [number] = self.bytes()?;
                self.recall(number.into())
            }
            b'j' => {
                let number = u32::from_le_bytes(self.bytes()?);
                self.recall(number)
            }
            b'a' => {
                let value = self.pop()?;
                self.append(vec![value])
            }
            b'e' => {
                let values = self.pop_to_mark()?;
                self.append(values)
            }
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.set(vec![key, value])
            }
            b'u' => {
                let pairs = self.pop_to_mark()?;
                self.set(pairs)
            }
            b'Q' => self.storage(),
            b'R' => self.call(),
            // torch hangs `_metadata`, versions of modules, on a dictionary of tensors
            b'b' => {
                self.pop()?;
                match self.stack.last().and_then(|&value| self.pickle.object(value)) {
                    Some(Object::Dict(_)) => Ok(()),
                    _ => Err("it sets the state of an object that is not a dictionary".to_owned()),
                }
            }
            other => Err(format!("it has the pickle instruction {other:#04x}, which tensors do not need")),
        }
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut bytes = [0; N];
        self.reader.read_exact(&mut bytes).map_err(|_| CUT_SHORT.to_owned())?;
        Ok(bytes)
    }

    /// Memory grows with what is there, not with what the length says.
    fn raw(&mut self, length: u64) -> Result<Vec<u8>, String> {
        let mut bytes = vec![];
        let read = (&mut self.reader).take(length).read_to_end(&mut bytes);
        match read {
            Ok(read) if read as u64 == length => Ok(bytes),
            _ => Err(CUT_SHORT.to_owned()),
        }
    }

    fn line(&mut self) -> Result<String, String> {
        let mut line = vec![];
        let read = (&mut self.reader).take(MAX_NAME).read_until(b'\n', &mut line);
        match (read, line.pop()) {
            (Ok(_), Some(b'\n')) => String::from_utf8(line).map_err(|_| "a name in it is not text".to_owned()),
            _ => Err(CUT_SHORT.to_owned()),
        }
    }

    fn push(&mut self, value: Value) -> Result<(), String> {
        self.stack.push(value);
        Ok(())
    }

    fn object(&mut self, object: Object) -> Result<(), String> {
        self.pickle.objects.push(object);
        self.push(Value::Object(self.pickle.objects.len() - 1))
    }

    fn pop(&mut self) -> Result<Value, String> {
        match self.stack.pop() {
            Some(Value::Mark) | None => Err("its pickle takes values from an empty stack".to_owned()),
            Some(value) => Ok(value),
        }
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Value>, String> {
        let mark = self.stack.iter().rposition(|&value| value == Value::Mark);
        let mark = mark.ok_or("its pickle has no mark")?;
        let values = self.stack.split_off(mark + 1);
        self.stack.pop();
        Ok(values)
    }

    fn long(&mut self) -> Result<(), String> {
        let [length] = self.bytes()?;
        let bytes = self.raw(length.into())?;
        let Some(negative) = bytes.last().map(|byte| byte & 0x80 != 0) else { return self.push(Value::Int(0)) };
        let mut wide = [if negative { 0xff } else { 0 }; 8];
        match wide.get_mut(..bytes.len()) {
            Some(low) => {
                low.copy_from_slice(&bytes);
                self.push(Value::Int(i64::from_le_bytes(wide)))
            }
            // torch's magic number, which is not used
            None => self.push(Value::Float),
        }
    }

    fn text(&mut self, length: u64) -> Result<(), String> {
        let text = String::from_utf8(self.raw(length)?).map_err(|_| "a name in it is not text".to_owned())?;
        self.object(Object::Text(text))
    }

    fn global(&mut self) -> Result<(), String> {
        let (module, name) = (self.line()?, self.line()?);
        match Global::find(&module, &name) {
            Some(global) => self.push(Value::Global(global)),
            None => Err(format!("it uses {module:?}.{name:?}, which a file of tensors does not need")),
        }
    }

    fn remember(&mut self, number: u32) -> Result<(), String> {
        let value = *self.stack.last().ok_or("its pickle stores nothing in its memo")?;
        self.memo.insert(number, value);
        Ok(())
    }

    fn recall(&mut self, number: u32) -> Result<(), String> {
        let value = self.memo.get(&number).copied();
        self.push(value.ok_or("its pickle reads a memo entry that it never stored")?)
    }

    fn append(&mut self, mut values: Vec<Value>) -> Result<(), String> {
        match self.last_object() {
            Some(Object::List(list)) => {
                list.append(&mut values);
                Ok(())
            }
            _ => Err("its pickle appends to an object that is not a list".to_owned()),
        }
    }

    fn set(&mut self, pairs: Vec<Value>) -> Result<(), String> {
        match self.last_object() {
            Some(Object::Dict(dict)) if pairs.len().is_multiple_of(2) => {
                dict.extend(pairs.as_chunks::<2>().0.iter().map(|&[key, value]| (key, value)));
                Ok(())
            }
            _ => Err("its pickle sets items of an object that is not a dictionary".to_owned()),
        }
    }

    fn last_object(&mut self) -> Option<&mut Object> {
        match self.stack.last() {
            Some(&Value::Object(number)) => self.pickle.objects.get_mut(number),
            _ => None,
        }
    }

    /// `('storage', class, key, location, length)`, and in old files a last `None`: no storage is a view of another.
    fn storage(&mut self) -> Result<(), String> {
        let id = self.pop()?;
        let storage = || {
            let pickle = &self.pickle;
            let (&[kind, class, key, _location, length], rest) = pickle.tuple(id)?.split_first_chunk()?;
            let (Value::Global(Global::Storage(dtype)), Value::Int(length)) = (class, length) else { return None };
            let known = pickle.text(kind) == Some("storage") && matches!(rest, [] | [Value::None]);
            pickle.text(key).filter(|_| known)?;
            Some(Storage { dtype, key, len: u64::try_from(length).ok()? })
        };
        let storage = storage().ok_or("it refers to a storage in a way that torch does not")?;
        self.object(Object::Storage(storage))
    }

    fn call(&mut self) -> Result<(), String> {
        let (arguments, function) = (self.pop()?, self.pop()?);
        let wrong = || "it builds a tensor in a way that torch does not".to_owned();
        let values = self.pickle.tuple(arguments).ok_or_else(wrong)?;
        match function {
            Value::Global(Global::OrderedDict) if values.is_empty() => self.object(Object::Dict(vec![])),
            Value::Global(Global::RebuildTensor) => {
                let tensor = self.tensor(values).ok_or_else(wrong)??;
                self.object(Object::Tensor(Box::new(tensor)))
            }
            // the tensor itself, whether it learns, its hooks
            Value::Global(Global::RebuildParameter) => match values.first().map(|&v| (v, self.pickle.object(v))) {
                Some((value, Some(Object::Tensor(_)))) => self.push(value),
                _ => Err(wrong()),
            },
            _ => Err(wrong()),
        }
    }

    /// `(storage, offset, shape, strides, ...)`.
    fn tensor(&self, arguments: &[Value]) -> Option<Result<PickledTensor, String>> {
        let &[storage, offset, shape, strides] = arguments.first_chunk()?;
        let (Some(Object::Storage(storage)), Value::Int(offset)) = (self.pickle.object(storage), offset) else {
            return None;
        };
        let (shape, strides) = (self.pickle.sizes(shape)?, self.pickle.sizes(strides)?);
        let tensor = PickledTensor { storage: *storage, offset: offset.try_into().ok()?, shape, strides };
        if tensor.shape.len() == tensor.strides.len() && tensor.is_within() {
            return Some(Ok(tensor));
        }
        Some(Err(format!(
            "a tensor of shape {:?}, strides {:?} and offset {offset} does not fit its {} values",
            tensor.shape, tensor.strides, tensor.storage.len
        )))
    }
}

impl PickledTensor {
    /// How many values it has; at most as many as its storage.
    pub(crate) fn count(&self) -> Option<u64> {
        let count = self.shape.iter().try_fold(1u64, |count, &size| count.checked_mul(size as u64));
        count.filter(|&count| count <= self.storage.len)
    }

    fn is_within(&self) -> bool {
        let last = self.shape.iter().zip(&self.strides).try_fold(self.offset, |last, (&size, &stride)| {
            last.checked_add((size as u64).saturating_sub(1).checked_mul(stride as u64)?)
        });
        match (self.count(), last) {
            (Some(0), Some(_)) => self.offset <= self.storage.len,
            (Some(_), Some(last)) => last < self.storage.len,
            _ => false,
        }
    }

    /// Whether its values lie one after the other in the order of its shape.
    pub(crate) fn is_contiguous(&self) -> bool {
        if self.count() == Some(0) {
            return true;
        }
        let mut expected = 1;
        self.shape.iter().zip(&self.strides).rev().all(|(&size, &stride)| {
            let fits = size == 1 || stride == expected;
            expected *= size;
            fits
        })
    }
}

/// Weights have five at most. Many tensors may take their shape from one tuple: it has to stay short.
const MAX_DIMENSIONS: usize = 8;
const CUT_SHORT: &str = "its pickle is cut short";
/// The longest name of a module or class that is looked at.
const MAX_NAME: u64 = 1024;
