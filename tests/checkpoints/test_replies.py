"""What checkpoints reply, as it is shown."""

from ivlens.checkpoints.replies import texts_to_show


def test_a_wrong_answer_is_shown_though_only_right_ones_were_judged_as_texts() -> None:
    assert texts_to_show(("threw", ""), ("threw", "leaped")) == ("threw", "leaped")
    assert texts_to_show((), ("threw", "leaped")) == ("threw", "leaped")
