//! A CUDA device: kernels by NVRTC, convolutions by cuDNN, products of matrices by cuBLAS, all on candle's stream.
//!
//! The tests run everything else of this backend without a device (`host`), so this file has as little in it as can be.

use std::cell::Cell;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use candle_core::cuda_backend::cudarc::cublas::result::gemm_strided_batched_ex;
use candle_core::cuda_backend::cudarc::cublas::sys as blas;
use candle_core::cuda_backend::cudarc::cudnn::sys as dnn;
use candle_core::cuda_backend::cudarc::cudnn::{
    ConvBackwardData, ConvBackwardFilter, ConvDescriptor, ConvForward, Cudnn, FilterDescriptor, TensorDescriptor,
};
use candle_core::cuda_backend::cudarc::driver::sys::CUdeviceptr;
use candle_core::cuda_backend::cudarc::driver::{
    CudaFunction, CudaModule, CudaSlice, CudaStream, DevicePtr, DevicePtrMut, DeviceRepr, DeviceSlice, LaunchConfig,
    PushKernelArg, SyncOnDrop,
};
use candle_core::cuda_backend::cudarc::nvrtc::{CompileOptions, compile_ptx_with_opts};
use candle_core::cuda_backend::{DeviceId, gemm_reduced_precision_f32};
use candle_core::{
    CpuStorage, CudaDevice, CudaStorage, DType, Error, InplaceOp1, Layout, Result, Storage, Tensor, Var, bail,
};

use super::SOURCES;
use super::card::{Address, Argument, ByColumns, Card, Pass, Product, THREADS};
use crate::op::conv_shape::ConvShape;

/// A CUDA device that candle opened.
#[derive(Clone)]
pub(crate) struct Device(Arc<Parts>);

struct Parts {
    device: CudaDevice,
    stream: Arc<CudaStream>,
    module: Arc<CudaModule>,
    functions: Mutex<HashMap<&'static str, CudaFunction>>,
    convolutions: Mutex<Convolutions>,
    pool: Arc<Pool>,
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.device.fmt(f)
    }
}

impl PartialEq for Device {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// What was opened so far; it stays for as long as the program.
static DEVICES: LazyLock<Mutex<HashMap<DeviceId, Device>>> = LazyLock::new(Mutex::default);

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Device {
    fn open(device: &CudaDevice) -> Result<Self> {
        let stream = device.cuda_stream();
        if stream.cu_stream() == stream.context().per_thread_stream().cu_stream() {
            bail!(
                "a CUDA device that `Device::new_cuda` opened has a stream for each thread, and the order of their work is \
                 not known; open it by `Device::new_cuda_with_stream`"
            )
        }
        let (major, minor) = stream.context().compute_capability().map_err(Error::wrap)?;
        let options = vec![format!("--gpu-architecture=compute_{major}{minor}"), "--std=c++17".to_owned()];
        let program = SOURCES.map(|(_, text)| text).concat();
        let options = CompileOptions { options, name: Some("kakusan.cu".to_owned()), ..CompileOptions::default() };
        let ptx = compile_ptx_with_opts(program, options).map_err(Error::wrap)?;
        let module = stream.context().load_module(ptx).map_err(Error::wrap)?;
        let library = Cudnn::new(stream.clone()).map_err(Error::wrap)?;
        let convolutions = Mutex::new(Convolutions { library, plans: HashMap::new() });
        let (functions, pool) = (Mutex::default(), Arc::default());
        Ok(Self(Arc::new(Parts { device: device.clone(), stream, module, functions, convolutions, pool })))
    }

    fn stream(&self) -> &Arc<CudaStream> {
        &self.0.stream
    }

    /// Some numbers or bytes of this device, as the libraries want them.
    fn at<T>(&self, address: Address, len: usize) -> At<T> {
        At { address: address.0, len, stream: self.stream().clone(), of: std::marker::PhantomData }
    }

    /// Memory that the driver allocates; if there is none, what the pool keeps is given back first.
    fn fresh<T: DeviceRepr>(&self, len: usize) -> Result<CudaSlice<T>> {
        // SAFETY: nothing reads memory before kernels have written to it.
        let allocate = || unsafe { self.stream().alloc::<T>(len) };
        let slice = allocate().or_else(|_| {
            locked(&self.0.pool.0).clear();
            self.stream().synchronize()?;
            allocate()
        });
        match slice {
            Ok(slice) => Ok(slice),
            Err(error) => bail!(
                "{:?} has no memory for {} more bytes: {error}; use a smaller batch or gradient checkpointing",
                self.0.device,
                len * size_of::<T>()
            ),
        }
    }

    fn function(&self, kernel: &'static str) -> Result<CudaFunction> {
        let mut functions = locked(&self.0.functions);
        if let Some(function) = functions.get(kernel) {
            return Ok(function.clone());
        }
        let function = self.0.module.load_function(kernel).map_err(Error::wrap)?;
        functions.insert(kernel, function.clone());
        Ok(function)
    }
}

/// Memory that was freed and may serve again, by its size. Work that waits on the stream may still use it; the work
/// that uses it next waits behind that.
#[derive(Default)]
struct Pool(Mutex<HashMap<usize, Vec<CudaSlice<u8>>>>);

/// Gives back what the pools of all devices keep.
pub(crate) fn trim() {
    locked(&DEVICES).values().for_each(|device| locked(&device.0.pool.0).clear());
}

/// Memory of a device; the pool gets it back.
pub(crate) struct Memory {
    /// Until it is dropped.
    slice: Option<CudaSlice<u8>>,
    address: Address,
    pool: Arc<Pool>,
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.address)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if let Some(slice) = self.slice.take() {
            locked(&self.pool.0).entry(slice.len()).or_default().push(slice);
        }
    }
}

/// What is allocated for so many bytes: eight sizes from one power of two to the next.
fn rounded(bytes: usize) -> usize {
    let bytes = bytes.max(512);
    bytes.next_multiple_of((bytes.next_power_of_two() / 16).max(512))
}

/// A tensor's numbers; the tensor holds them.
pub(crate) struct Input {
    _tensor: Tensor,
    address: Address,
}

/// A variable's place, found where candle lets it be written to.
#[derive(Default)]
struct Locate(Cell<u64>);

impl InplaceOp1 for Locate {
    fn name(&self) -> &'static str {
        "locate"
    }

    fn cpu_fwd(&self, _: &mut CpuStorage, _: &Layout) -> Result<()> {
        bail!("an optimiser for a CUDA device got a variable on the CPU")
    }

    fn cuda_fwd(&self, storage: &mut CudaStorage, layout: &Layout) -> Result<()> {
        let Some((start, _)) = layout.contiguous_offsets() else {
            bail!("an optimiser got a strided variable {:?}", layout.shape())
        };
        let slice = storage.as_cuda_slice_mut::<f32>()?;
        let stream = slice.stream().clone();
        self.0.set(Address(slice.device_ptr_mut(&stream).0).plus(start).0);
        Ok(())
    }
}

impl Card for Device {
    type Memory = Memory;
    type Input = Input;

    fn of(tensor: &Tensor) -> Result<Self> {
        let candle_core::Device::Cuda(device) = tensor.device() else {
            bail!("features are on a CUDA device, a tensor {:?} is on {:?}", tensor.dims(), tensor.device())
        };
        let mut devices = locked(&DEVICES);
        if let Some(known) = devices.get(&device.id()) {
            return Ok(known.clone());
        }
        let opened = Self::open(device)?;
        devices.insert(device.id(), opened.clone());
        Ok(opened)
    }

    fn allocate(&self, bytes: usize) -> Result<Memory> {
        let size = rounded(bytes);
        let free = locked(&self.0.pool.0).get_mut(&size).and_then(Vec::pop);
        let slice = match free {
            Some(slice) => slice,
            None => self.fresh(size)?,
        };
        let address = Address(slice.device_ptr(self.stream()).0);
        Ok(Memory { slice: Some(slice), address, pool: self.0.pool.clone() })
    }

    fn address(memory: &Memory) -> Address {
        memory.address
    }

    fn upload(&self, bytes: &[u8]) -> Result<Memory> {
        let memory = self.allocate(bytes.len())?;
        self.stream().memcpy_htod(bytes, &mut self.at::<u8>(memory.address, bytes.len())).map_err(Error::wrap)?;
        Ok(memory)
    }

    fn read(&self, from: &Memory, to: &mut [u8]) -> Result<()> {
        self.stream().memcpy_dtoh(&self.at::<u8>(from.address, to.len()), to).map_err(Error::wrap)?;
        self.stream().synchronize().map_err(Error::wrap)
    }

    fn bring(&self, tensor: &Tensor) -> Result<Tensor> {
        tensor.to_device(&candle_core::Device::Cuda(self.0.device.clone()))
    }

    fn input(&self, tensor: &Tensor) -> Result<Input> {
        if Self::of(tensor)? != *self {
            bail!("features are on {:?}, a tensor {:?} is on another", self.0.device, tensor.dims())
        }
        let (storage, layout) = tensor.storage_and_layout();
        let (Storage::Cuda(storage), Some((start, _))) = (&*storage, layout.contiguous_offsets()) else {
            bail!("a kernel got a strided tensor {:?}", tensor.dims())
        };
        let address = match tensor.dtype() {
            DType::F32 => Address(storage.as_cuda_slice::<f32>()?.device_ptr(self.stream()).0).plus(start),
            DType::U8 => Address(storage.as_cuda_slice::<u8>()?.device_ptr(self.stream()).0 + start as u64),
            other => bail!("the CUDA kernels take f32, a tensor {:?} is {other:?}", tensor.dims()),
        };
        Ok(Input { _tensor: tensor.clone(), address })
    }

    fn input_address(input: &Input) -> Address {
        input.address
    }

    fn storage(&self, len: usize, fill: impl FnOnce(Address) -> Result<()>) -> Result<Storage> {
        let slice = self.fresh::<f32>(len.max(1))?;
        fill(Address(slice.device_ptr(self.stream()).0))?;
        Ok(Storage::Cuda(CudaStorage::wrap_cuda_slice(slice, self.0.device.clone())))
    }

    fn update(&self, vars: &[&Var], update: impl FnOnce(&[Address]) -> Result<()>) -> Result<()> {
        let addresses = vars.iter().map(|var| {
            let place = Locate::default();
            var.inplace_op1(&place)?;
            Ok(Address(place.0.get()))
        });
        update(&addresses.collect::<Result<Vec<_>>>()?)
    }

    fn launch(&self, kernel: &'static str, blocks: u32, arguments: &[Argument]) -> Result<()> {
        let function = self.function(kernel)?;
        let mut launch = self.stream().launch_builder(&function);
        for argument in arguments {
            match argument {
                Argument::Address(address) => launch.arg(address),
                Argument::Index(index) => launch.arg(index),
                Argument::Int(int) => launch.arg(int),
                Argument::Float(float) => launch.arg(float),
                Argument::Double(double) => launch.arg(double),
            };
        }
        let shape = LaunchConfig { grid_dim: (blocks, 1, 1), block_dim: (THREADS as u32, 1, 1), shared_mem_bytes: 0 };
        // SAFETY: number, types and sizes of the arguments are what the tests check on the host, where the same call
        // runs the same kernel between guards.
        unsafe { launch.launch(shape) }.map_err(Error::wrap)?;
        Ok(())
    }

    fn convolve(&self, pass: Pass, s: &ConvShape, x: Address, weights: Address, y: Address) -> Result<()> {
        let mut convolutions = locked(&self.0.convolutions);
        self.stream().context().bind_to_thread().map_err(Error::wrap)?;
        let plan = convolutions.plan(pass, s)?;
        let room = self.allocate(plan.room)?;
        let mut room = (plan.room > 0).then(|| self.at::<u8>(room.address, plan.room));
        let mut x = self.at::<f32>(x, s.b * s.h * s.w * s.ci);
        let mut weights = self.at::<f32>(weights, s.co * s.k * s.k * s.ci);
        let mut y = self.at::<f32>(y, s.b * s.oh * s.ow * s.co);
        let (room, once) = (room.as_mut(), (1.0, 0.0));
        let Plan { conv, x: of_x, weights: w, y: of_y, algorithm, .. } = plan;
        // SAFETY: the memory has the sizes of the descriptors, which are made from the same shape.
        let done = unsafe {
            match *algorithm {
                Algorithm::Forward(algorithm) => {
                    ConvForward { conv, x: of_x, w, y: of_y }.launch(algorithm, room, once, &x, &weights, &mut y)
                }
                Algorithm::Weights(algorithm) => ConvBackwardFilter { conv, x: of_x, dw: w, dy: of_y }.launch(
                    algorithm,
                    room,
                    once,
                    &x,
                    &mut weights,
                    &y,
                ),
                Algorithm::Input(algorithm) => {
                    ConvBackwardData { conv, dx: of_x, w, dy: of_y }.launch(algorithm, room, once, &mut x, &weights, &y)
                }
            }
        };
        done.map_err(Error::wrap)
    }

    fn multiply(&self, s: &Product, a: Address, b: Address, c: Address) -> Result<()> {
        let ByColumns { m, n, k, transposed, leading, strides } = s.by_columns();
        let [of_b, of_a] = transposed.map(|transposed| match transposed {
            true => blas::cublasOperation_t::CUBLAS_OP_T,
            false => blas::cublasOperation_t::CUBLAS_OP_N,
        });
        let [m, n, k, batch] = [m, n, k, s.batch].map(|size| size as i32);
        let [row_b, row_a, row_c] = leading.map(|size| size as i32);
        let [next_b, next_a, next_c] = strides.map(|size| size as i64);
        let float = blas::cudaDataType::CUDA_R_32F;
        let precision = match gemm_reduced_precision_f32() {
            true => blas::cublasComputeType_t::CUBLAS_COMPUTE_32F_FAST_TF32,
            false => blas::cublasComputeType_t::CUBLAS_COMPUTE_32F,
        };
        let factors = [1f32, if s.add { 1.0 } else { 0.0 }];
        let [one, kept] = factors.each_ref().map(|factor| std::ptr::from_ref(factor).cast());
        let algorithm = blas::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT;
        let [a, b, c] = [a, b, c].map(|address| address.0 as *mut std::ffi::c_void);
        self.stream().context().bind_to_thread().map_err(Error::wrap)?;
        let library = self.0.device.cublas_handle();
        // SAFETY: the memory has the sizes of the matrices, which are dense; the factors live until the call returns.
        #[rustfmt::skip]
        let done = unsafe {
            gemm_strided_batched_ex(
                *library.handle(), of_b, of_a, m, n, k, one, b, float, row_b, next_b, a, float, row_a, next_a,
                kept, c, float, row_c, next_c, batch, precision, algorithm,
            )
        };
        done.map_err(Error::wrap)
    }
}

/// cuDNN, and how it computes each convolution that was asked for.
struct Convolutions {
    library: Arc<Cudnn>,
    plans: HashMap<Key, Plan>,
}

// SAFETY: cuDNN's handle and descriptors may pass from one thread to another while one at a time uses them, which the
// lock around this sees to; the descriptors' references to the handle are never given away.
unsafe impl Send for Convolutions {}

/// What a convolution computes, its sizes, and whether TF32 is allowed.
type Key = (Pass, [usize; 9], bool);

struct Plan {
    conv: ConvDescriptor<f32>,
    x: TensorDescriptor<f32>,
    weights: FilterDescriptor<f32>,
    y: TensorDescriptor<f32>,
    algorithm: Algorithm,
    /// Bytes of working memory.
    room: usize,
}

enum Algorithm {
    Forward(dnn::cudnnConvolutionFwdAlgo_t),
    Weights(dnn::cudnnConvolutionBwdFilterAlgo_t),
    Input(dnn::cudnnConvolutionBwdDataAlgo_t),
}

impl Convolutions {
    fn plan(&mut self, pass: Pass, s: &ConvShape) -> Result<&Plan> {
        let tf32 = gemm_reduced_precision_f32();
        let key = (pass, [s.b, s.ci, s.h, s.w, s.co, s.k, s.stride, s.top, s.left], tf32);
        if !self.plans.contains_key(&key) {
            let plan = self.made(pass, s, tf32).map_err(Error::wrap)?;
            self.plans.insert(key, plan);
        }
        match self.plans.get(&key) {
            Some(plan) => Ok(plan),
            None => bail!("the plan of a convolution was lost"),
        }
    }

    fn made(
        &self,
        pass: Pass,
        s: &ConvShape,
        tf32: bool,
    ) -> std::result::Result<Plan, candle_core::cuda_backend::cudarc::cudnn::CudnnError> {
        let last = dnn::cudnnTensorFormat_t::CUDNN_TENSOR_NHWC;
        let features = |c: usize, h: usize, w: usize| {
            self.library.create_4d_tensor::<f32>(last, [s.b, c, h, w].map(|size| size as i32))
        };
        let (x, y) = (features(s.ci, s.h, s.w)?, features(s.co, s.oh, s.ow)?);
        let weights = self.library.create_4d_filter::<f32>(last, [s.co, s.ci, s.k, s.k].map(|size| size as i32))?;
        let pairs = [[s.top, s.left], [s.stride; 2]].map(|pair| pair.map(|size| size as i32));
        let mode = dnn::cudnnConvolutionMode_t::CUDNN_CROSS_CORRELATION;
        let mut conv = self.library.create_conv2d::<f32>(pairs[0], pairs[1], [1, 1], mode)?;
        conv.set_math_type(match tf32 {
            true => dnn::cudnnMathType_t::CUDNN_DEFAULT_MATH,
            false => dnn::cudnnMathType_t::CUDNN_FMA_MATH,
        })?;
        // Of the algorithms of the gradients, those numbered 0 and 3 add in an order of chance; where one of them is
        // the fastest, number 1 takes its place, unless it cannot compute this convolution.
        let (algorithm, room) = match pass {
            Pass::Forward => {
                let forward = ConvForward { conv: &conv, x: &x, w: &weights, y: &y };
                let algorithm = forward.pick_algorithm()?;
                (Algorithm::Forward(algorithm), forward.get_workspace_size(algorithm)?)
            }
            Pass::Weights => {
                use dnn::cudnnConvolutionBwdFilterAlgo_t as Known;
                let gradient = ConvBackwardFilter { conv: &conv, x: &x, dw: &weights, dy: &y };
                let picked = gradient.pick_algorithm()?;
                let steady = Known::CUDNN_CONVOLUTION_BWD_FILTER_ALGO_1;
                let by_chance =
                    [Known::CUDNN_CONVOLUTION_BWD_FILTER_ALGO_0, Known::CUDNN_CONVOLUTION_BWD_FILTER_ALGO_3];
                match gradient.get_workspace_size(steady) {
                    Ok(room) if by_chance.contains(&picked) => (Algorithm::Weights(steady), room),
                    _ => (Algorithm::Weights(picked), gradient.get_workspace_size(picked)?),
                }
            }
            Pass::Input => {
                use dnn::cudnnConvolutionBwdDataAlgo_t as Known;
                let gradient = ConvBackwardData { conv: &conv, dx: &x, w: &weights, dy: &y };
                let picked = gradient.pick_algorithm()?;
                let steady = Known::CUDNN_CONVOLUTION_BWD_DATA_ALGO_1;
                match gradient.get_workspace_size(steady) {
                    Ok(room) if picked == Known::CUDNN_CONVOLUTION_BWD_DATA_ALGO_0 => (Algorithm::Input(steady), room),
                    _ => (Algorithm::Input(picked), gradient.get_workspace_size(picked)?),
                }
            }
        };
        Ok(Plan { conv, x, weights, y, algorithm, room })
    }
}

/// Memory by its address, for calls on the stream that everything is done on: nothing has to be waited for.
struct At<T> {
    address: u64,
    len: usize,
    stream: Arc<CudaStream>,
    of: std::marker::PhantomData<T>,
}

impl<T> DeviceSlice<T> for At<T> {
    fn len(&self) -> usize {
        self.len
    }

    fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }
}

impl<T> DevicePtr<T> for At<T> {
    fn device_ptr<'a>(&'a self, _: &'a CudaStream) -> (CUdeviceptr, SyncOnDrop<'a>) {
        (self.address, SyncOnDrop::Record(None))
    }
}

impl<T> DevicePtrMut<T> for At<T> {
    fn device_ptr_mut<'a>(&'a mut self, _: &'a CudaStream) -> (CUdeviceptr, SyncOnDrop<'a>) {
        (self.address, SyncOnDrop::Record(None))
    }
}
