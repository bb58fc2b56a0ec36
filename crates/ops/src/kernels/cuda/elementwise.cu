// Number by number. A result may lie in the memory of an argument of the same size.

#define SILU 0
#define GELU 1
#define MISH 2
#define RELU 3

__device__ inline float activated(int f, float x) {
    switch (f) {
    case SILU: return silu(x);
    case GELU: return 0.5f * x * erfcf(-0.70710678f * x);
    case MISH: return x * tanhf(fmaxf(x, 0.0f) + log1pf(expf(-fabsf(x))));
    default: return x <= 0.0f ? 0.0f : x; // NaN stays
    }
}

__device__ inline float activation_slope(int f, float x) {
    switch (f) {
    case SILU: return silu_slope(x);
    case GELU: return 0.5f * erfcf(-0.70710678f * x) + 0.39894228f * x * expf(-0.5f * x * x);
    case MISH: {
        float t = tanhf(fmaxf(x, 0.0f) + log1pf(expf(-fabsf(x))));
        return t + x * (1.0f - t * t) * sigmoid(x);
    }
    default: return x <= 0.0f ? 0.0f : 1.0f;
    }
}

KERNEL activation(int f, const float *x, float *y, Index count) {
    EACH(i, count) y[i] = activated(f, x[i]);
}

KERNEL activation_backward(int f, const float *x, const float *grad, float *dx, Index count) {
    EACH(i, count) dx[i] = grad[i] * activation_slope(f, x[i]);
}

KERNEL fill(float *y, float value, Index count) {
    EACH(i, count) y[i] = value;
}

KERNEL copy(const float *x, float *y, Index count) {
    EACH(i, count) y[i] = x[i];
}

KERNEL add(const float *a, const float *b, float *y, Index count) {
    EACH(i, count) y[i] = a[i] + b[i];
}

KERNEL multiply(const float *a, const float *b, float *y, Index count) {
    EACH(i, count) y[i] = a[i] * b[i];
}

KERNEL scale(const float *x, float factor, float *y, Index count) {
    EACH(i, count) y[i] = x[i] * factor;
}

// torch multiplies by zero: NaN stays.
KERNEL dropout(const float *x, const unsigned char *mask, float kept, float *y, Index count) {
    EACH(i, count) y[i] = x[i] * ((float)mask[i] * kept);
}

// `image` numbers of an image, and a vector [c] for each.
KERNEL add_vector(const float *x, const float *vector, float *y, Index image, Index c, Index count) {
    EACH(i, count) y[i] = x[i] + vector[i / image * c + i % c];
}

// A vector [2c] for each image: scales less 1, then shifts.
KERNEL scale_shift(const float *x, const float *vector, float *y, Index image, Index c, Index count) {
    EACH(i, count) {
        const float *scales = vector + i / image * 2 * c;
        y[i] = x[i] * (1.0f + scales[i % c]) + scales[c + i % c];
    }
}

KERNEL scale_shift_backward(const float *vector, const float *grad, float *dx, Index image, Index c, Index count) {
    EACH(i, count) dx[i] = grad[i] * (1.0f + vector[i / image * 2 * c + i % c]);
}

// After a convolution or a product, in place: y plus the bias [c], if there is one; SiLU of it if asked for, whose
// slopes go to `slopes`, if there is such memory.
KERNEL finish(float *y, const float *bias, int by_silu, float *slopes, Index c, Index count) {
    EACH(i, count) {
        float x = bias ? y[i] + bias[i % c] : y[i];
        if (slopes) slopes[i] = silu_slope(x);
        y[i] = by_silu ? silu(x) : x;
    }
}
