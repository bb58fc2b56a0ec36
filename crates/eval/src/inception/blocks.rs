//! Inception's blocks, named after torchvision's: branches side by side, whose channels are joined.

use candle_core::{DType, Result, Tensor};

use super::conv::{Conv, Loader};

/// What an average of 3x3 pixels is divided by where it reaches over the edge.
#[derive(Debug, Clone, Copy)]
pub(super) enum Average {
    /// The pixels (`count_include_pad=False`).
    OfPixels,
    /// 9.
    WithPadding,
}

impl Average {
    /// The average of each pixel's neighbourhood of 3x3.
    fn pool(self, x: &Tensor) -> Result<Tensor> {
        let sum = |x: &Tensor| padded(x)?.avg_pool2d_with_stride((3, 3), (1, 1));
        let averages = sum(x)?;
        match self {
            Self::WithPadding => Ok(averages),
            Self::OfPixels => {
                let (_, _, h, w) = x.dims4()?;
                averages.broadcast_div(&sum(&Tensor::ones((1, 1, h, w), DType::F32, x.device())?)?)
            }
        }
    }
}

/// The maximum of 3x3 pixels, of every second one.
pub(super) fn max_pool(x: &Tensor) -> Result<Tensor> {
    x.max_pool2d_with_stride((3, 3), (2, 2))
}

fn padded(x: &Tensor) -> Result<Tensor> {
    x.pad_with_zeros(2, 1, 1)?.pad_with_zeros(3, 1, 1)
}

fn chain(convs: &[Conv], x: &Tensor) -> Result<Tensor> {
    convs.iter().try_fold(x.clone(), |x, conv| conv.forward(&x))
}

type Loaded<T> = kakusan_pipeline::Result<T>;

pub(super) struct BlockA {
    single: Conv,
    five: [Conv; 2],
    three: [Conv; 3],
    pool: Conv,
    average: Average,
}

impl BlockA {
    pub(super) fn new(load: &mut Loader, name: &str, ci: usize, pool: usize, average: Average) -> Loaded<Self> {
        let mut conv = |part: &str, channels, k, padding| {
            load.conv(&format!("{name}.{part}"), channels, [k, k], 1, [padding, padding])
        };
        Ok(Self {
            single: conv("branch1x1", [ci, 64], 1, 0)?,
            five: [conv("branch5x5_1", [ci, 48], 1, 0)?, conv("branch5x5_2", [48, 64], 5, 2)?],
            three: [
                conv("branch3x3dbl_1", [ci, 64], 1, 0)?,
                conv("branch3x3dbl_2", [64, 96], 3, 1)?,
                conv("branch3x3dbl_3", [96, 96], 3, 1)?,
            ],
            pool: conv("branch_pool", [ci, pool], 1, 0)?,
            average,
        })
    }

    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let pooled = self.pool.forward(&self.average.pool(x)?)?;
        Tensor::cat(&[self.single.forward(x)?, chain(&self.five, x)?, chain(&self.three, x)?, pooled], 1)
    }
}

pub(super) struct BlockB {
    three: Conv,
    double: [Conv; 3],
}

impl BlockB {
    pub(super) fn new(load: &mut Loader, name: &str, ci: usize) -> Loaded<Self> {
        let mut conv = |part: &str, channels, k, stride, padding| {
            load.conv(&format!("{name}.{part}"), channels, [k, k], stride, [padding, padding])
        };
        Ok(Self {
            three: conv("branch3x3", [ci, 384], 3, 2, 0)?,
            double: [
                conv("branch3x3dbl_1", [ci, 64], 1, 1, 0)?,
                conv("branch3x3dbl_2", [64, 96], 3, 1, 1)?,
                conv("branch3x3dbl_3", [96, 96], 3, 2, 0)?,
            ],
        })
    }

    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Tensor::cat(&[self.three.forward(x)?, chain(&self.double, x)?, max_pool(x)?], 1)
    }
}

pub(super) struct BlockC {
    single: Conv,
    seven: [Conv; 3],
    double: [Conv; 5],
    pool: Conv,
    average: Average,
}

/// Kernels of one row and of one column, with the padding that keeps the size.
const ROW_7: ([usize; 2], [usize; 2]) = ([1, 7], [0, 3]);
const COLUMN_7: ([usize; 2], [usize; 2]) = ([7, 1], [3, 0]);
const ROW_3: ([usize; 2], [usize; 2]) = ([1, 3], [0, 1]);
const COLUMN_3: ([usize; 2], [usize; 2]) = ([3, 1], [1, 0]);
const POINT: ([usize; 2], [usize; 2]) = ([1, 1], [0, 0]);
const SQUARE: ([usize; 2], [usize; 2]) = ([3, 3], [1, 1]);

impl BlockC {
    pub(super) fn new(load: &mut Loader, name: &str, c: usize, average: Average) -> Loaded<Self> {
        let mut conv = |part: &str, channels, (kernel, padding)| {
            load.conv(&format!("{name}.{part}"), channels, kernel, 1, padding)
        };
        Ok(Self {
            single: conv("branch1x1", [768, 192], POINT)?,
            seven: [
                conv("branch7x7_1", [768, c], POINT)?,
                conv("branch7x7_2", [c, c], ROW_7)?,
                conv("branch7x7_3", [c, 192], COLUMN_7)?,
            ],
            double: [
                conv("branch7x7dbl_1", [768, c], POINT)?,
                conv("branch7x7dbl_2", [c, c], COLUMN_7)?,
                conv("branch7x7dbl_3", [c, c], ROW_7)?,
                conv("branch7x7dbl_4", [c, c], COLUMN_7)?,
                conv("branch7x7dbl_5", [c, 192], ROW_7)?,
            ],
            pool: conv("branch_pool", [768, 192], POINT)?,
            average,
        })
    }

    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let pooled = self.pool.forward(&self.average.pool(x)?)?;
        Tensor::cat(&[self.single.forward(x)?, chain(&self.seven, x)?, chain(&self.double, x)?, pooled], 1)
    }
}

pub(super) struct BlockD {
    three: [Conv; 2],
    seven: [Conv; 4],
}

impl BlockD {
    pub(super) fn new(load: &mut Loader, name: &str, ci: usize) -> Loaded<Self> {
        let mut conv = |part: &str, channels, (kernel, padding), stride| {
            load.conv(&format!("{name}.{part}"), channels, kernel, stride, padding)
        };
        let smaller = ([3, 3], [0, 0]);
        Ok(Self {
            three: [conv("branch3x3_1", [ci, 192], POINT, 1)?, conv("branch3x3_2", [192, 320], smaller, 2)?],
            seven: [
                conv("branch7x7x3_1", [ci, 192], POINT, 1)?,
                conv("branch7x7x3_2", [192, 192], ROW_7, 1)?,
                conv("branch7x7x3_3", [192, 192], COLUMN_7, 1)?,
                conv("branch7x7x3_4", [192, 192], smaller, 2)?,
            ],
        })
    }

    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Tensor::cat(&[chain(&self.three, x)?, chain(&self.seven, x)?, max_pool(x)?], 1)
    }
}

/// The pooling of a block E.
pub(super) enum PoolOfE {
    Average(Average),
    /// Of the last block of the FID's network.
    Maximum,
}

pub(super) struct BlockE {
    single: Conv,
    three: Conv,
    three_ends: [Conv; 2],
    double: [Conv; 2],
    double_ends: [Conv; 2],
    pool: Conv,
    pooling: PoolOfE,
}

impl BlockE {
    pub(super) fn new(load: &mut Loader, name: &str, ci: usize, pooling: PoolOfE) -> Loaded<Self> {
        let mut conv = |part: &str, channels, (kernel, padding)| {
            load.conv(&format!("{name}.{part}"), channels, kernel, 1, padding)
        };
        Ok(Self {
            single: conv("branch1x1", [ci, 320], POINT)?,
            three: conv("branch3x3_1", [ci, 384], POINT)?,
            three_ends: [conv("branch3x3_2a", [384, 384], ROW_3)?, conv("branch3x3_2b", [384, 384], COLUMN_3)?],
            double: [conv("branch3x3dbl_1", [ci, 448], POINT)?, conv("branch3x3dbl_2", [448, 384], SQUARE)?],
            double_ends: [conv("branch3x3dbl_3a", [384, 384], ROW_3)?, conv("branch3x3dbl_3b", [384, 384], COLUMN_3)?],
            pool: conv("branch_pool", [ci, 192], POINT)?,
            pooling,
        })
    }

    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let pooled = match self.pooling {
            PoolOfE::Average(average) => average.pool(x)?,
            // x comes out of ReLU, so that zeros around it do not count
            PoolOfE::Maximum => padded(x)?.max_pool2d_with_stride((3, 3), (1, 1))?,
        };
        let (three, double) = (self.three.forward(x)?, chain(&self.double, x)?);
        let [three_row, three_column] = &self.three_ends;
        let [double_row, double_column] = &self.double_ends;
        let branches = [
            self.single.forward(x)?,
            three_row.forward(&three)?,
            three_column.forward(&three)?,
            double_row.forward(&double)?,
            double_column.forward(&double)?,
            self.pool.forward(&pooled)?,
        ];
        Tensor::cat(&branches, 1)
    }
}
