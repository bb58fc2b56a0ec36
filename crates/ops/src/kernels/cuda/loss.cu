// Losses of the difference d = a - b: d^2, |d|, or Huber's with its delta.

#define SQUARED 0
#define ABSOLUTE 1

__device__ inline double loss_of(int kind, double delta, double d) {
    if (kind == SQUARED) return d * d;
    if (kind == ABSOLUTE) return fabs(d);
    double inside = d > delta ? delta : d; // NaN stays
    inside = inside < -delta ? -delta : inside;
    return inside * (d - 0.5 * inside);
}

// The sums over pieces, one for each block.
KERNEL loss_sums(int kind, double delta, const float *a, const float *b, double *sums, Index count) {
    SHARED(Doubles, room);
    double sum = 0.0;
    EACH(i, count) sum += loss_of(kind, delta, (double)a[i] - (double)b[i]);
    sum = sum_block(room, sum);
    if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

// The gradient of a in the mean over all numbers, times `grad`, the gradient of that mean; `factor` is 1 / count, or
// less than 0 for the gradient of b.
KERNEL loss_backward(int kind, float delta, const float *a, const float *b, const float *grad, float factor, float *da,
                     Index count) {
    EACH(i, count) {
        float d = a[i] - b[i], slope = 0.0f;
        if (kind == SQUARED) {
            slope = 2.0f * d;
        } else if (kind == ABSOLUTE) {
            slope = d > 0.0f ? 1.0f : (d < 0.0f ? -1.0f : 0.0f);
        } else {
            slope = d > delta ? delta : d;
            slope = slope < -delta ? -delta : slope;
        }
        da[i] = slope * (*grad * factor);
    }
}
