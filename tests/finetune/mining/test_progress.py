"""The bars of the stages of mining."""

from blockrank_rerank.finetune.mining.progress import stage_progress


def test_every_stage_has_a_bar_that_ends_before_the_next_one_begins(capsys):
    stages = [("embedding documents", 3), ("mining", 2), ("embedding documents", 4), ("embedding documents", 4)]
    with stage_progress() as show:
        for stage, total in stages:
            for done in range(1, total + 1):
                show(stage, done, total)
    drawn = capsys.readouterr().err.splitlines()
    assert [line.split(" ━")[0] for line in drawn] == [stage for stage, _ in stages]
    assert all(f"{total}/{total}" in line for line, (_, total) in zip(drawn, stages, strict=True))
    assert not any("tokens/s" in line for line in drawn)


def test_without_any_stage_nothing_is_drawn(capsys):
    with stage_progress():
        pass
    assert capsys.readouterr().err == ""
