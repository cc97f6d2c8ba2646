"""Options that can never work are refused in one sentence, before anything is read."""

from __future__ import annotations

import pytest

from pure_jax.__main__ import main


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        *((f"{step} --batch {bad}", f"batch is {bad}") for step in ("lm", "vqgan --photos x") for bad in (0, -1)),
        *((f"{step} --steps 0", "steps is 0") for step in ("lm", "vqgan --photos x")),
        *((f"{step} --seed -1", "seed is -1") for step in ("lm", "vqgan --photos x")),
        *((f"lm --optimiser.learning-rate {bad}", f"learning_rate is {bad}") for bad in ("nan", "-1.0", "inf")),
        ("lm --optimiser.clip-norm 0", "clip_norm is 0"),
        ("lm --optimiser.b2 1", "b2 is 1"),
        ("lm --optimiser.decay-steps 0", "decay_steps is 0"),
        ("lm --ema-decay 1.5", "ema_decay is 1.5"),
        ("lm --drift -0.1", "drift is -0.1"),
        ("vqgan --photos x --crop 0", "crop is 0"),
        ("vqgan --photos x --crop 7", "pictures of 7 pixels are too small for 3 discriminator_layers, which need 24"),
        ("vqgan --photos x --discriminator-width 20", "discriminator_width is 20, but it must be a multiple of 8"),
        ("vqgan --photos x --discriminator-layers 0", "discriminator_layers is 0"),
        ("vqgan --photos x --steps 5 --autoencoder-steps 6", "autoencoder_steps is 6, but it must lie in 0 ... 5"),
        ("vqgan --photos x --degraded-share 2", "degraded_share is 2"),
        ("vqgan --photos x --l1-weight -1", "l1_weight is -1"),
        ("demo --photos x --recipe tiny --steps lm=0", "steps is 0"),
        ("demo --photos x --recipe tiny --steps lm=5 vae=9", "'vae=9' is no number of steps; write NETWORK=NUMBER"),
        ("demo --photos x --recipe tiny --val-names absent.txt", "cannot read absent.txt as text"),
    ],
)
def test_options_out_of_range_are_one_sentence(tmp_path, monkeypatch, capsys, arguments, complaint):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit_:
        main(["train", *arguments.split()])
    assert exit_.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"pure: error: {complaint}")
    assert list(tmp_path.iterdir()) == []
