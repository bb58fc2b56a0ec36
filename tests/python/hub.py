"""Python's huggingface_hub and diffusers read from the Hub what `kakusan push` wrote there.

    HF_ENDPOINT=... HF_TOKEN=... python tests/python/hub.py --repo ada/digits --images ours.safetensors

Needs torch, diffusers and huggingface_hub. tests/hub/push.rs starts a fake Hub, pushes a run and runs this script where
KAKUSAN_PYTHON names such a Python. Python also pushes a file by itself, which shows that the fake Hub speaks the Hub's
protocol.
"""

import argparse

import torch
from diffusers import DDPMPipeline
from huggingface_hub import HfApi, ModelCard
from safetensors.torch import load_file


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--repo", required=True)
    parser.add_argument("--images", required=True)
    args = parser.parse_args()

    api = HfApi()
    info = api.model_info(args.repo)
    files = sorted(api.list_repo_files(args.repo))
    assert info.sha and "model_index.json" in files and "unet/config.json" in files, files
    card = ModelCard.load(args.repo)
    data = card.data.to_dict()
    assert data["library_name"] == "diffusers" and data["license"] == "mit", data
    assert data["pipeline_tag"] == "unconditional-image-generation", data
    assert set(data["tags"]) == {"diffusion", "kakusan"}, data
    print(f"{len(files)} files, the card's metadata: {data}")

    pipeline = DDPMPipeline.from_pretrained(args.repo)
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    theirs = pipeline(batch_size=3, num_inference_steps=5, generator=generator, output_type="np").images
    theirs = torch.from_numpy(theirs).permute(0, 3, 1, 2)
    ours = load_file(args.images)["images"]
    difference = (ours - theirs).abs().max().item()
    assert difference <= 1 / 255, difference
    print(f"the same images within {difference:.1e}")

    api.create_repo("ada/from-python", private=True)
    api.create_repo("ada/from-python", exist_ok=True)
    upload = dict(path_or_fileobj=b"from Python", path_in_repo="hello.txt", repo_id="ada/from-python")
    api.upload_file(**upload, commit_message="By Python")
    print("Python pushes to the fake Hub, too")


if __name__ == "__main__":
    main()
