// What the kernels share. All of them are one program: this file and then the `.cu` files, compiled by NVRTC on a card,
// by nvcc in `cargo xtask ci cuda`, and as C++ for the tests (host/machine.h). So they include nothing, and use of C++
// and CUDA what all three have.
//
// Features lie channels last, [b, h, w, c]; counts and places have 32 bits, which the caller checks. Grids have one
// dimension. Every sum has one order, so that a result has the same bits each time: no atomics.

#ifdef __CUDACC__
#define KERNEL extern "C" __global__ void __launch_bounds__(256)
// One object that the threads of a block share.
#define SHARED(type, name) __shared__ type name
#endif

typedef unsigned int Index;

// Threads of a block, unless the kernel says otherwise.
#define THREADS 256u
// Threads that run together.
#define WARP 32u
// Numbers that a block takes from one pass over all of them.
#define PIECE 1024u

#define NOT_A_NUMBER(x) ((x) != (x))
#define LOWEST (-3.402823466e38f)

// This thread's places below `count` of an elementwise pass: neighbours read neighbours.
#define EACH(i, count)                                                                                                 \
    for (Index i = blockIdx.x * PIECE + threadIdx.x, end_ = lesser(count, (blockIdx.x + 1) * PIECE); i < end_;         \
         i += THREADS)

__device__ inline Index lesser(Index a, Index b) { return a < b ? a : b; }

// A place of features: x = ((b * h + y) * w + x) * c + channel.
struct Place {
    Index image, y, x, channel;
};

__device__ inline Place place(Index i, Index h, Index w, Index c) {
    Index pixel = i / c, row = pixel / w;
    return {row / h, row % h, pixel % w, i % c};
}

// A number for each thread of a block.
struct Numbers {
    float of[THREADS];
};

struct Doubles {
    double of[THREADS];
};

// The sum of `x` over the threads of a block that agree in `threadIdx.x % lanes`, `lanes` a power of two; threads
// below `lanes` get it.
__device__ inline float sum_lanes(Numbers &room, float x, Index lanes) {
    __syncthreads(); // the room may still be read
    room.of[threadIdx.x] = x;
    for (Index half = THREADS / 2; half >= lanes; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) room.of[threadIdx.x] += room.of[threadIdx.x + half];
    }
    return room.of[threadIdx.x]; // that a thread wrote itself
}

// The same in f64 over all threads; thread 0 gets it.
__device__ inline double sum_block(Doubles &room, double x) {
    room.of[threadIdx.x] = x;
    for (Index half = THREADS / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) room.of[threadIdx.x] += room.of[threadIdx.x + half];
    }
    return room.of[threadIdx.x];
}

// The sum and the maximum of `x` over a warp, of which all threads have to be here.
__device__ inline float sum_warp(float x) {
    for (Index apart = WARP / 2; apart > 0; apart /= 2) x += __shfl_xor_sync(0xffffffffu, x, apart);
    return x;
}

__device__ inline float largest_of_warp(float x) {
    for (Index apart = WARP / 2; apart > 0; apart /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, apart));
    return x;
}

__device__ inline float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

__device__ inline float silu(float x) { return x / (1.0f + expf(-x)); }

__device__ inline float silu_slope(float x) {
    float s = sigmoid(x);
    return s * (1.0f + x * (1.0f - s));
}
