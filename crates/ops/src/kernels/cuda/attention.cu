// Softmax over the rows of scores [rows, keys], in place; the products around it are the library's. A warp has a row.

__device__ inline Index row_of_warp() { return blockIdx.x * (THREADS / WARP) + threadIdx.x / WARP; }

// softmax(scores * scale), and the logarithm of each row's sum of exponentials. `scale` is positive.
KERNEL softmax(float *scores, float *log_sums, Index rows, Index keys, float scale) {
    Index row = row_of_warp(), lane = threadIdx.x % WARP;
    if (row >= rows) return; // whole warps
    float *s = scores + row * keys, largest = LOWEST, sum = 0.0f;
    for (Index i = lane; i < keys; i += WARP) largest = fmaxf(largest, s[i]);
    largest = largest_of_warp(largest) * scale;
    for (Index i = lane; i < keys; i += WARP) {
        s[i] = expf(s[i] * scale - largest);
        sum += s[i];
    }
    sum = sum_warp(sum);
    for (Index i = lane; i < keys; i += WARP) s[i] /= sum;
    if (lane == 0) log_sums[row] = largest + logf(sum);
}

// Turns scores into weights again, p, and their gradients dp into those of the scores: p (dp - sum of p dp) * scale.
KERNEL softmax_backward(float *scores, float *dweights, const float *log_sums, Index rows, Index keys, float scale) {
    Index row = row_of_warp(), lane = threadIdx.x % WARP;
    if (row >= rows) return;
    float *p = scores + row * keys, *d = dweights + row * keys, along = 0.0f;
    for (Index i = lane; i < keys; i += WARP) {
        p[i] = expf(p[i] * scale - log_sums[row]);
        along += p[i] * d[i];
    }
    along = sum_warp(along);
    for (Index i = lane; i < keys; i += WARP) d[i] = p[i] * (d[i] - along) * scale;
}
