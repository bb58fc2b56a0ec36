// Group normalisation, and SiLU behind it where asked for. Sums are taken by channels, which lie side by side, and then
// folded into groups.

// Numbers without themselves: how many, their mean, and the sum of squares of what is apart from it.
struct Moments {
    float count, mean, squares;
};

struct BlockMoments {
    Moments of[THREADS];
};

__device__ inline Moments merged(Moments a, Moments b) {
    if (b.count == 0.0f) return a;
    if (a.count == 0.0f) return b;
    float count = a.count + b.count, apart = b.mean - a.mean, share = b.count / count;
    return {count, a.mean + apart * share, a.squares + b.squares + apart * apart * a.count * share};
}

// Of x [b, pixels, c], for each channel and part of `part` pixels, mean and squares: to moments [b, parts, 2, c]. A
// block takes `lanes` channels, a power of two.
KERNEL norm_moments(const float *x, float *moments, Index pixels, Index c, Index part, Index parts, Index lanes) {
    SHARED(BlockMoments, room);
    Index tiles = (c + lanes - 1) / lanes;
    Index channel = blockIdx.x % tiles * lanes + threadIdx.x % lanes;
    Index which = blockIdx.x / tiles % parts, image = blockIdx.x / tiles / parts;
    Moments own = {0.0f, 0.0f, 0.0f};
    if (channel < c) {
        Index first = which * part + threadIdx.x / lanes, end = lesser(pixels, (which + 1) * part);
        if (first < end) {
            // sums of what is apart from the first number keep their digits
            float origin = x[(image * pixels + first) * c + channel], sum = 0.0f, squares = 0.0f;
            for (Index pixel = first; pixel < end; pixel += THREADS / lanes) {
                float apart = x[(image * pixels + pixel) * c + channel] - origin;
                sum += apart;
                squares += apart * apart;
                own.count += 1.0f;
            }
            float mean = sum / own.count;
            own.mean = origin + mean;
            own.squares = squares - sum * mean;
        }
    }
    room.of[threadIdx.x] = own;
    for (Index half = THREADS / 2; half >= lanes; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) room.of[threadIdx.x] = merged(room.of[threadIdx.x], room.of[threadIdx.x + half]);
    }
    if (threadIdx.x < lanes && channel < c) {
        float *to = moments + (image * parts + which) * 2 * c + channel;
        to[0] = room.of[threadIdx.x].mean;
        to[c] = room.of[threadIdx.x].squares;
    }
}

// From those moments to mean and 1 / deviation of each group, one warp for each: stats [2, b, groups].
KERNEL norm_fold(const float *moments, float *stats, Index pixels, Index c, Index part, Index parts, Index groups,
                 double eps, Index all) {
    Index which = blockIdx.x * (THREADS / WARP) + threadIdx.x / WARP, lane = threadIdx.x % WARP;
    if (which >= all) return; // whole warps
    Index per_group = c / groups, first = which % groups * per_group;
    const float *of_image = moments + which / groups * parts * 2 * c;
    double size = (double)pixels * per_group, sum = 0.0, squares = 0.0;
    for (Index i = lane; i < parts * per_group; i += WARP) {
        Index at = i / per_group;
        double count = lesser(part, pixels - at * part);
        sum += count * of_image[at * 2 * c + first + i % per_group];
    }
    for (Index apart = WARP / 2; apart > 0; apart /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, apart);
    double mean = sum / size;
    for (Index i = lane; i < parts * per_group; i += WARP) {
        Index at = i / per_group;
        double count = lesser(part, pixels - at * part);
        const float *of_part = of_image + at * 2 * c + first + i % per_group;
        double apart = of_part[0] - mean;
        squares += of_part[c] + count * apart * apart;
    }
    for (Index apart = WARP / 2; apart > 0; apart /= 2) squares += __shfl_xor_sync(0xffffffffu, squares, apart);
    if (lane == 0) {
        stats[which] = (float)mean;
        stats[all + which] = (float)(1.0 / sqrt(squares / size + eps));
    }
}

// Mean and 1 / deviation for place `i` of features whose images have `image` numbers.
struct Stats {
    float mean, rstd;
};

__device__ inline Stats stats_of(const float *stats, Index i, Index image, Index c, Index groups, Index all) {
    Index which = i / image * groups + i % c / (c / groups);
    return {stats[which], stats[all + which]};
}

KERNEL norm_apply(const float *x, const float *stats, const float *weight, const float *bias, int by_silu, float *y,
                  Index image, Index c, Index groups, Index all, Index count) {
    EACH(i, count) {
        Stats s = stats_of(stats, i, image, c, groups, all);
        float normal = (x[i] - s.mean) * s.rstd * weight[i % c] + bias[i % c];
        y[i] = by_silu ? silu(normal) : normal;
    }
}

// For each channel and part of the pixels, the sums of t and t * normal, with t the gradient before SiLU and normal x
// without its mean and deviation: to sums [b, parts, 2, c], the products first.
KERNEL norm_slopes(const float *x, const float *stats, const float *weight, const float *bias, const float *grad,
                   int by_silu, float *sums, Index pixels, Index c, Index groups, Index all, Index part, Index parts,
                   Index lanes) {
    SHARED(Numbers, room);
    Index tiles = (c + lanes - 1) / lanes;
    Index channel = blockIdx.x % tiles * lanes + threadIdx.x % lanes;
    Index which = blockIdx.x / tiles % parts, image = blockIdx.x / tiles / parts;
    float along_x = 0.0f, along_one = 0.0f;
    if (channel < c) {
        Index end = lesser(pixels, (which + 1) * part);
        for (Index pixel = which * part + threadIdx.x / lanes; pixel < end; pixel += THREADS / lanes) {
            Index i = (image * pixels + pixel) * c + channel;
            Stats s = stats_of(stats, i, pixels * c, c, groups, all);
            float normal = (x[i] - s.mean) * s.rstd, t = grad[i];
            if (by_silu) t *= silu_slope(normal * weight[channel] + bias[channel]);
            along_x += t * normal;
            along_one += t;
        }
    }
    along_x = sum_lanes(room, along_x, lanes);
    along_one = sum_lanes(room, along_one, lanes);
    if (threadIdx.x < lanes && channel < c) {
        float *to = sums + (image * parts + which) * 2 * c + channel;
        to[0] = along_x;
        to[c] = along_one;
    }
}

// From the sums over all pixels, [b, 2, c], to the weighted means over each group, means [2, b, groups].
KERNEL norm_means(const float *sums, const float *weight, float *means, Index pixels, Index c, Index groups,
                  Index all) {
    EACH(which, all) {
        Index per_group = c / groups, first = which % groups * per_group;
        const float *of_image = sums + which / groups * 2 * c;
        double along_x = 0.0, along_one = 0.0, size = (double)pixels * per_group;
        for (Index channel = first; channel < first + per_group; channel++) {
            along_x += (double)of_image[channel] * weight[channel];
            along_one += (double)of_image[c + channel] * weight[channel];
        }
        means[which] = (float)(along_x / size);
        means[all + which] = (float)(along_one / size);
    }
}

// dx = (t * weight - mean of t * weight - normal * mean of t * weight * normal) / deviation, means over the group
KERNEL norm_backward(const float *x, const float *stats, const float *means, const float *weight, const float *bias,
                     const float *grad, int by_silu, float *dx, Index image, Index c, Index groups, Index all,
                     Index count) {
    EACH(i, count) {
        Stats s = stats_of(stats, i, image, c, groups, all), along = stats_of(means, i, image, c, groups, all);
        float normal = (x[i] - s.mean) * s.rstd, t = grad[i];
        if (by_silu) t *= silu_slope(normal * weight[i % c] + bias[i % c]);
        dx[i] = s.rstd * (t * weight[i % c] - along.rstd - normal * along.mean);
    }
}
