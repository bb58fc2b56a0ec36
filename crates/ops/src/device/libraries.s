# The functions of CUDA's libraries that cudarc's `result` and `safe` modules and candle's own kernels call; see
# libraries.rs.

# A function is a jump through an entry: its address, or at first that of the code that finds it, and its name.
.macro delayed name
    .section .text.kakusan_\name, "ax", @progbits
    .globl \name
    .type \name, @function
\name:
    jmp qword ptr [rip + .Lentry_\name]
.Lfind_\name:
    lea r11, [rip + .Lentry_\name]
    jmp .Lkakusan_find
    .size \name, . - \name

    .section .data.kakusan_\name, "aw", @progbits
    .balign 8
.Lentry_\name:
    .quad .Lfind_\name
    .asciz "\name"
.endm

# Asks `resolve` for the function of the entry in r11, and jumps there with all arguments as they were. (The caller's
# call and the seven registers take 64 bytes, so the stack is aligned as it must be.)
    .section .text.kakusan_find, "ax", @progbits
.Lkakusan_find:
    push rdi
    push rsi
    push rdx
    push rcx
    push r8
    push r9
    push rax
    sub rsp, 128
    movups [rsp + 0], xmm0
    movups [rsp + 16], xmm1
    movups [rsp + 32], xmm2
    movups [rsp + 48], xmm3
    movups [rsp + 64], xmm4
    movups [rsp + 80], xmm5
    movups [rsp + 96], xmm6
    movups [rsp + 112], xmm7
    mov rdi, r11
    call {resolve}
    mov r11, rax
    movups xmm0, [rsp + 0]
    movups xmm1, [rsp + 16]
    movups xmm2, [rsp + 32]
    movups xmm3, [rsp + 48]
    movups xmm4, [rsp + 64]
    movups xmm5, [rsp + 80]
    movups xmm6, [rsp + 96]
    movups xmm7, [rsp + 112]
    add rsp, 128
    pop rax
    pop r9
    pop r8
    pop rcx
    pop rdx
    pop rsi
    pop rdi
    jmp r11

# libcuda
delayed cuCtxCreate_v3
delayed cuCtxCreate_v4
delayed cuCtxDestroy_v2
delayed cuCtxGetCacheConfig
delayed cuCtxGetCurrent
delayed cuCtxGetLimit
delayed cuCtxGetStreamPriorityRange
delayed cuCtxSetCacheConfig
delayed cuCtxSetCurrent
delayed cuCtxSetFlags
delayed cuCtxSetLimit
delayed cuCtxSynchronize
delayed cuDestroyExternalMemory
delayed cuDeviceGet
delayed cuDeviceGetAttribute
delayed cuDeviceGetCount
delayed cuDeviceGetDefaultMemPool
delayed cuDeviceGetMemPool
delayed cuDeviceGetName
delayed cuDeviceGetUuid
delayed cuDeviceGetUuid_v2
delayed cuDevicePrimaryCtxRelease_v2
delayed cuDevicePrimaryCtxRetain
delayed cuDeviceSetMemPool
delayed cuDeviceTotalMem_v2
delayed cuDriverGetVersion
delayed cuEventCreate
delayed cuEventDestroy_v2
delayed cuEventElapsedTime
delayed cuEventElapsedTime_v2
delayed cuEventQuery
delayed cuEventRecord
delayed cuEventSynchronize
delayed cuExternalMemoryGetMappedBuffer
delayed cuFuncGetAttribute
delayed cuFuncSetAttribute
delayed cuFuncSetCacheConfig
delayed cuGetErrorName
delayed cuGetErrorString
delayed cuGraphDestroy
delayed cuGraphExecDestroy
delayed cuGraphInstantiateWithFlags
delayed cuGraphLaunch
delayed cuGraphUpload
delayed cuImportExternalMemory
delayed cuInit
delayed cuLaunchCooperativeKernel
delayed cuLaunchHostFunc
delayed cuLaunchKernel
delayed cuMemAdvise_v2
delayed cuMemAllocAsync
delayed cuMemAllocFromPoolAsync
delayed cuMemAllocManaged
delayed cuMemAlloc_v2
delayed cuMemFreeAsync
delayed cuMemFreeHost
delayed cuMemFree_v2
delayed cuMemGetInfo_v2
delayed cuMemHostAlloc
delayed cuMemPoolCreate
delayed cuMemPoolDestroy
delayed cuMemPoolGetAttribute
delayed cuMemPoolSetAttribute
delayed cuMemPoolTrimTo
delayed cuMemPrefetchAsync_v2
delayed cuMemcpyDtoDAsync_v2
delayed cuMemcpyDtoD_v2
delayed cuMemcpyDtoHAsync_v2
delayed cuMemcpyDtoH_v2
delayed cuMemcpyHtoDAsync_v2
delayed cuMemcpyHtoD_v2
delayed cuMemcpyPeerAsync
delayed cuMemsetD8Async
delayed cuMemsetD8_v2
delayed cuModuleGetFunction
delayed cuModuleGetGlobal_v2
delayed cuModuleLoad
delayed cuModuleLoadData
delayed cuModuleUnload
delayed cuOccupancyAvailableDynamicSMemPerBlock
delayed cuOccupancyMaxActiveBlocksPerMultiprocessor
delayed cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags
delayed cuOccupancyMaxActiveClusters
delayed cuOccupancyMaxPotentialBlockSize
delayed cuOccupancyMaxPotentialBlockSizeWithFlags
delayed cuOccupancyMaxPotentialClusterSize
delayed cuProfilerStart
delayed cuProfilerStop
delayed cuStreamAttachMemAsync
delayed cuStreamBeginCapture_v2
delayed cuStreamCreate
delayed cuStreamCreateWithPriority
delayed cuStreamDestroy_v2
delayed cuStreamEndCapture
delayed cuStreamIsCapturing
delayed cuStreamSynchronize
delayed cuStreamWaitEvent

# libcublas
delayed cublasCreate_v2
delayed cublasDasum_v2
delayed cublasDestroy_v2
delayed cublasDgemmStridedBatched
delayed cublasDgemm_v2
delayed cublasDgemv_v2
delayed cublasGemmEx
delayed cublasGemmGroupedBatchedEx
delayed cublasGemmStridedBatchedEx
delayed cublasGetPointerMode_v2
delayed cublasSasum_v2
delayed cublasSetPointerMode_v2
delayed cublasSetStream_v2
delayed cublasSgemmStridedBatched
delayed cublasSgemm_v2
delayed cublasSgemv_v2

# libcublasLt
delayed cublasLtCreate
delayed cublasLtDestroy
delayed cublasLtLoggerOpenFile
delayed cublasLtLoggerSetLevel
delayed cublasLtMatmul
delayed cublasLtMatmulAlgoGetHeuristic
delayed cublasLtMatmulDescCreate
delayed cublasLtMatmulDescDestroy
delayed cublasLtMatmulDescSetAttribute
delayed cublasLtMatmulPreferenceCreate
delayed cublasLtMatmulPreferenceDestroy
delayed cublasLtMatmulPreferenceSetAttribute
delayed cublasLtMatrixLayoutCreate
delayed cublasLtMatrixLayoutDestroy
delayed cublasLtMatrixLayoutSetAttribute

# libcurand
delayed curandCreateGenerator
delayed curandDestroyGenerator
delayed curandGenerate
delayed curandGenerateLogNormal
delayed curandGenerateLogNormalDouble
delayed curandGenerateLongLong
delayed curandGenerateNormal
delayed curandGenerateNormalDouble
delayed curandGeneratePoisson
delayed curandGenerateUniform
delayed curandGenerateUniformDouble
delayed curandSetGeneratorOffset
delayed curandSetPseudoRandomGeneratorSeed
delayed curandSetStream

# libnvrtc
delayed nvrtcCompileProgram
delayed nvrtcCreateProgram
delayed nvrtcDestroyProgram
delayed nvrtcGetPTX
delayed nvrtcGetPTXSize
delayed nvrtcGetProgramLog
delayed nvrtcGetProgramLogSize

# libcudnn
delayed cudnnActivationForward
delayed cudnnAdvInferVersionCheck
delayed cudnnAdvTrainVersionCheck
delayed cudnnAdvVersionCheck
delayed cudnnBackendCreateDescriptor
delayed cudnnBackendDestroyDescriptor
delayed cudnnBackendExecute
delayed cudnnBackendFinalize
delayed cudnnBackendGetAttribute
delayed cudnnBackendInitialize
delayed cudnnBackendSetAttribute
delayed cudnnCnnInferVersionCheck
delayed cudnnCnnTrainVersionCheck
delayed cudnnCnnVersionCheck
delayed cudnnConvolutionBackwardData
delayed cudnnConvolutionBackwardFilter
delayed cudnnConvolutionBiasActivationForward
delayed cudnnConvolutionForward
delayed cudnnCreate
delayed cudnnCreateActivationDescriptor
delayed cudnnCreateConvolutionDescriptor
delayed cudnnCreateFilterDescriptor
delayed cudnnCreatePoolingDescriptor
delayed cudnnCreateReduceTensorDescriptor
delayed cudnnCreateTensorDescriptor
delayed cudnnDestroy
delayed cudnnDestroyConvolutionDescriptor
delayed cudnnDestroyFilterDescriptor
delayed cudnnDestroyReduceTensorDescriptor
delayed cudnnDestroyTensorDescriptor
delayed cudnnGetConvolutionBackwardDataAlgorithm_v7
delayed cudnnGetConvolutionBackwardDataWorkspaceSize
delayed cudnnGetConvolutionBackwardFilterAlgorithm_v7
delayed cudnnGetConvolutionBackwardFilterWorkspaceSize
delayed cudnnGetConvolutionForwardAlgorithm_v7
delayed cudnnGetConvolutionForwardWorkspaceSize
delayed cudnnGetCudartVersion
delayed cudnnGetReductionIndicesSize
delayed cudnnGetReductionWorkspaceSize
delayed cudnnGetVersion
delayed cudnnOpsInferVersionCheck
delayed cudnnOpsTrainVersionCheck
delayed cudnnOpsVersionCheck
delayed cudnnPoolingForward
delayed cudnnReduceTensor
delayed cudnnSetActivationDescriptor
delayed cudnnSetConvolution2dDescriptor
delayed cudnnSetConvolutionGroupCount
delayed cudnnSetConvolutionMathType
delayed cudnnSetConvolutionNdDescriptor
delayed cudnnSetFilter4dDescriptor
delayed cudnnSetFilterNdDescriptor
delayed cudnnSetPoolingNdDescriptor
delayed cudnnSetReduceTensorDescriptor
delayed cudnnSetStream
delayed cudnnSetTensor4dDescriptor
delayed cudnnSetTensor4dDescriptorEx
delayed cudnnSetTensorNdDescriptor
delayed cudnnSoftmaxForward

# libcudart, of kernels that are compiled into candle
delayed __cudaGetKernel
delayed __cudaInitModule
delayed __cudaLaunchKernel
delayed __cudaLaunchKernel_ptsz
delayed __cudaPopCallConfiguration
delayed __cudaPushCallConfiguration
delayed __cudaRegisterFatBinary
delayed __cudaRegisterFatBinaryEnd
delayed __cudaRegisterFunction
delayed __cudaRegisterVar
delayed __cudaUnregisterFatBinary
delayed cudaDeviceGetAttribute
delayed cudaFree
delayed cudaFreeAsync
delayed cudaFreeAsync_ptsz
delayed cudaFuncGetAttributes
delayed cudaFuncSetAttribute
delayed cudaGetDevice
delayed cudaGetDeviceCount
delayed cudaGetErrorName
delayed cudaGetErrorString
delayed cudaGetLastError
delayed cudaLaunchKernel
delayed cudaLaunchKernelExC
delayed cudaLaunchKernelExC_ptsz
delayed cudaLaunchKernel_ptsz
delayed cudaMalloc
delayed cudaMallocAsync
delayed cudaMallocAsync_ptsz
delayed cudaMemsetAsync
delayed cudaMemsetAsync_ptsz
delayed cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags
delayed cudaPeekAtLastError
delayed cudaSetDevice
delayed cudaStreamSynchronize
delayed cudaStreamSynchronize_ptsz
delayed ncclAllReduce
delayed ncclCommAbort
delayed ncclCommInitRank
delayed ncclGetUniqueId

    .text
