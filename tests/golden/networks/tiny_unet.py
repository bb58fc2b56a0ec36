"""The tiny network of the scripts that compare whole samplings and trainings."""


def tiny_unet(channels, **more):
    """The arguments of a UNet2DModel for images of 8 x 8: two levels, the lower one with attention."""
    return {
        "sample_size": 8,
        "in_channels": channels,
        "out_channels": channels,
        "layers_per_block": 1,
        "block_out_channels": [4, 8],
        "norm_num_groups": 4,
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
        "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
        **more,
    }
