// The optimisers' steps over all tensors in one launch, by a table of them.

// A tensor, and the first of the pieces that blocks take in the order of the table.
struct Entry {
    float *param;
    const float *grad;
    float *first, *second;
    Index begin, count;
};

// The entry that a block works on: the last that does not begin after it.
__device__ inline Entry entry_of(const Entry *table, Index entries) {
    Index low = 0, high = entries;
    while (high - low > 1) {
        Index middle = (low + high) / 2;
        if (table[middle].begin <= blockIdx.x) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return table[low];
}

// This thread's places of its block's piece.
#define EACH_OF(i, entry)                                                                                              \
    for (Index i = (blockIdx.x - entry.begin) * PIECE + threadIdx.x,                                                   \
               end_ = lesser(entry.count, (blockIdx.x - entry.begin + 1) * PIECE);                                     \
         i < end_; i += THREADS)

KERNEL adam(const Entry *table, Index entries, float grad_scale, float keep, float rate1, float keep2, float rate2,
            float correction, float eps, float step_size) {
    Entry e = entry_of(table, entries);
    EACH_OF(i, e) {
        float g = e.grad[i] * grad_scale;
        float m = e.first[i] + (g - e.first[i]) * rate1;
        float v = e.second[i] * keep2 + rate2 * g * g;
        e.first[i] = m;
        e.second[i] = v;
        e.param[i] = e.param[i] * keep - step_size * (m / (sqrtf(v) / correction + eps));
    }
}

// Without `first`, no momentum.
KERNEL sgd(const Entry *table, Index entries, float scale, float weight_decay, float momentum, float lr) {
    Entry e = entry_of(table, entries);
    EACH_OF(i, e) {
        float moved = e.grad[i] * scale + weight_decay * e.param[i];
        if (e.first) {
            moved = momentum * e.first[i] + moved;
            e.first[i] = moved;
        }
        e.param[i] -= lr * moved;
    }
}

// first -= (first - param) * rate, rounded after each operation as torch does it.
KERNEL average(const Entry *table, Index entries, float rate) {
    Entry e = entry_of(table, entries);
    EACH_OF(i, e) e.first[i] = __fsub_rn(e.first[i], __fmul_rn(rate, __fsub_rn(e.first[i], e.param[i])));
}

// The sums of squares of pieces of `grad`, one for each block.
KERNEL squares(const Entry *table, Index entries, double *sums) {
    SHARED(Doubles, room);
    Entry e = entry_of(table, entries);
    double sum = 0.0;
    EACH_OF(i, e) sum += (double)e.grad[i] * (double)e.grad[i];
    sum = sum_block(room, sum);
    if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}
