from ctkd_lightning.errors import UserError, suggest


def test_suggestions_put_near_names_first():
    assert suggest("kdd", ["pkt", "kd", "sp"]) == "did you mean kd? Valid: kd, pkt, sp"
    assert suggest("zzz", ["pkt", "kd"]) == "Valid: kd, pkt"


def test_is_a_value_error():
    assert issubclass(UserError, ValueError)
