// Pooling of 2x2 blocks, upsampling, and resampling through the filter [1, 3, 3, 1]. A thread has one result; images
// x are [b, h, w, c].

// Where the pixel of a block that is `dy` down and `dx` right lies, the block at row `y` and column `x`.
__device__ inline Index corner(Place at, Index h, Index w, Index c, Index dy, Index dx) {
    return ((at.image * h + 2 * at.y + dy) * w + 2 * at.x + dx) * c + at.channel;
}

KERNEL avg_pool(const float *x, float *y, Index h, Index w, Index c, Index count) {
    EACH(i, count) {
        Place at = place(i, h / 2, w / 2, c);
        float top = x[corner(at, h, w, c, 0, 0)] + x[corner(at, h, w, c, 0, 1)];
        y[i] = (top + (x[corner(at, h, w, c, 1, 0)] + x[corner(at, h, w, c, 1, 1)])) * 0.25f;
    }
}

KERNEL avg_pool_backward(const float *grad, float *dx, Index h, Index w, Index c, Index count) {
    EACH(i, count) {
        Place at = place(i, h, w, c);
        bool pooled = at.y / 2 < h / 2 && at.x / 2 < w / 2;
        Index from = ((at.image * (h / 2) + at.y / 2) * (w / 2) + at.x / 2) * c + at.channel;
        dx[i] = pooled ? grad[from] * 0.25f : 0.0f;
    }
}

// The place of a block's maximum, by torch's rule: the first of equals, and NaN always.
__device__ inline Index maximum(const float *x, Place at, Index h, Index w, Index c) {
    Index best = corner(at, h, w, c, 0, 0);
    for (Index k = 1; k < 4; k++) {
        Index later = corner(at, h, w, c, k / 2, k % 2);
        if (x[later] > x[best] || NOT_A_NUMBER(x[later])) best = later;
    }
    return best;
}

KERNEL max_pool(const float *x, float *y, Index h, Index w, Index c, Index count) {
    EACH(i, count) y[i] = x[maximum(x, place(i, h / 2, w / 2, c), h, w, c)];
}

// `gathered` may be null, or dx itself.
KERNEL max_pool_backward(const float *x, const float *grad, const float *gathered, float *dx, Index h, Index w,
                         Index c, Index count) {
    EACH(i, count) {
        Place at = place(i, h, w, c);
        float own = 0.0f;
        if (at.y / 2 < h / 2 && at.x / 2 < w / 2) {
            Place block = {at.image, at.y / 2, at.x / 2, at.channel};
            Index from = ((at.image * (h / 2) + block.y) * (w / 2) + block.x) * c + at.channel;
            if (maximum(x, block, h, w, c) == i) own = grad[from];
        }
        dx[i] = gathered ? gathered[i] + own : own;
    }
}

// Every pixel twice in both directions, plus `skip` unless it is null.
KERNEL upsample(const float *x, const float *skip, float *y, Index h, Index w, Index c, Index count) {
    EACH(i, count) {
        Place at = place(i, 2 * h, 2 * w, c);
        float own = x[((at.image * h + at.y / 2) * w + at.x / 2) * c + at.channel];
        y[i] = skip ? own + skip[i] : own;
    }
}

KERNEL upsample_backward(const float *grad, float *dx, Index h, Index w, Index c, Index count) {
    EACH(i, count) {
        Place at = place(i, h, w, c);
        Index row = 2 * w * c, from = ((at.image * 2 * h + 2 * at.y) * 2 * w + 2 * at.x) * c + at.channel;
        dx[i] = (grad[from] + grad[from + c]) + (grad[from + row] + grad[from + row + c]);
    }
}

// y[i] = factor * (x[2i - 1] + 3 x[2i] + 3 x[2i + 1] + x[2i + 2]) in both directions; y is [b, oh, ow, c].
KERNEL fir_down(const float *x, float *y, Index h, Index w, Index oh, Index ow, Index c, float factor, Index count) {
    EACH(i, count) {
        Place at = place(i, oh, ow, c);
        float sum = 0.0f;
        for (Index ty = 0; ty < 4; ty++) {
            Index from_y = 2 * at.y + ty - 1; // below 0 is above h
            if (from_y >= h) continue;
            float row = 0.0f;
            for (Index tx = 0; tx < 4; tx++) {
                Index from_x = 2 * at.x + tx - 1;
                if (from_x >= w) continue;
                float tap = x[((at.image * h + from_y) * w + from_x) * c + at.channel];
                row += tx == 1 || tx == 2 ? 3.0f * tap : tap;
            }
            sum += ty == 1 || ty == 2 ? 3.0f * row : row;
        }
        y[i] = sum * factor;
    }
}

// y[2i] = factor * (3 x[i] + x[i - 1]), y[2i + 1] = factor * (3 x[i] + x[i + 1]) in both directions; y is
// [b, oh, ow, c], which may be one more than twice the size.
KERNEL fir_up(const float *x, float *y, Index h, Index w, Index oh, Index ow, Index c, float factor, Index count) {
    EACH(i, count) {
        Place at = place(i, oh, ow, c);
        float sum = 0.0f;
        for (Index ty = 0; ty < 2; ty++) {
            Index from_y = ty == 0 ? at.y / 2 : at.y / 2 + (at.y % 2 == 0 ? -1 : 1);
            if (from_y >= h) continue;
            float row = 0.0f;
            for (Index tx = 0; tx < 2; tx++) {
                Index from_x = tx == 0 ? at.x / 2 : at.x / 2 + (at.x % 2 == 0 ? -1 : 1);
                if (from_x >= w) continue;
                float tap = x[((at.image * h + from_y) * w + from_x) * c + at.channel];
                row += tx == 0 ? 3.0f * tap : tap;
            }
            sum += ty == 0 ? 3.0f * row : row;
        }
        y[i] = sum * factor;
    }
}
