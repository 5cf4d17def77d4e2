"""n-gram models against spec 01's golden values, a plain re-telling of its rules, and their own laws."""

import itertools
import re
import tempfile
from collections import Counter, defaultdict
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from plume.errors import UserError
from plume.generation.decoding import generate
from plume.generation.language_models import HistoryModel
from plume.generation.sampling import Decoding
from plume.models.counts import Counts, Runs
from plume.models.ngrams import NGrams
from plume.models.smoothing import KneserNey, Laplace, discounts

EOS, UNK, A, B, C, D = range(6)
QUIET = KneserNey(fallback=(0.5, 1.0, 1.5))
ESTIMATORS = (QUIET, Laplace(0.7), Laplace((2.0, 1.0, 0.5, 0.1, 0.3), "unigram"), Laplace(0.0))
LOG10 = np.log(10)


@pytest.fixture(scope="module")
def golden() -> NGrams:
    return NGrams.fit([[A, B, C], [A, B, D], [B, C], [A, B, C]], 3, 6, QUIET, eos=EOS)


def test_kneser_ney_golden_probabilities(golden: NGrams) -> None:
    def log10(history: list[int], token: int, begins: bool = False) -> float:
        return float(golden.next_token_log_probs(history, begins=begins)[token]) / LOG10

    stored = {
        (): {UNK: -1.079181, A: -0.8103359, C: -0.8103359, D: -0.8103359, B: -0.6455257, EOS: -0.6455257},
        (A,): {B: -0.2124721},
        (C,): {EOS: -0.2124721},
        (D,): {EOS: -0.2124721},
        (B,): {C: -0.3864602, D: -0.6125254},
        (B, C): {EOS: -0.0933700},
        (B, D): {EOS: -0.0933700},
        (A, B): {C: -0.2686607, D: -0.5395675},
    }
    for history, row in stored.items():
        for token, value in row.items():
            assert log10(list(history), token) == pytest.approx(value, abs=5e-7)
    at_begin = {(): {A: -0.3444957, B: -0.6232493}, (A,): {B: -0.0933700}, (B,): {C: -0.1515909}}
    for history, row in at_begin.items():
        for token, value in row.items():
            assert log10(list(history), token, begins=True) == pytest.approx(value, abs=2e-7)


def test_kneser_ney_golden_back_off(golden: NGrams) -> None:
    # An unknown token is in no n-gram, so what it gets is back-off weights times its unigram.
    unigram = golden.next_token_log_probs([], begins=False)[UNK]
    for history, orders in {(A,): 1, (B,): 1, (C,): 1, (D,): 1, (A, B): 2, (B, C): 2, (B, D): 2}.items():
        weight = golden.next_token_log_probs(list(history), begins=False)[UNK] - unigram
        assert weight / LOG10 == pytest.approx(-0.30103 * orders, abs=1e-6), history
    # `c </s>` is no context (weight 1), nor is anything that was never seen.
    assert golden.next_token_log_probs([UNK, UNK], begins=False)[UNK] == pytest.approx(unigram, abs=1e-12)
    for history in ([], [A], [B]):  # `<s>`, `<s> a`, `<s> b`
        weight = (
            golden.next_token_log_probs(history)[UNK]
            - golden.next_token_log_probs(history, begins=False)[UNK]
        )
        assert weight / LOG10 == pytest.approx(-0.30103, abs=1e-6)


def test_kneser_ney_golden_scores(golden: NGrams) -> None:
    total = golden.log_probs([A, B, C, EOS]) / LOG10
    assert total.sum() == pytest.approx(-0.7998964, abs=1e-7)
    assert 10 ** (-total.sum() / 4) == pytest.approx(1.5847986, abs=1e-7)
    assert golden.log_probs([A, C, UNK, EOS]).sum() / LOG10 == pytest.approx(-3.7826285, abs=1e-7)


def test_adjusted_counts_of_the_golden_corpus(golden: NGrams) -> None:
    counts = Counts.of([[A, B, C], [A, B, D], [B, C], [A, B, C]], 3, 6, eos=EOS)
    unigrams, bigrams, trigrams = counts.levels
    assert unigrams.left[:-1].tolist() == [2, 0, 1, 2, 1, 1]
    begin = golden.vocab_size
    named = {divmod(int(key), begin): int(a) for key, a in zip(bigrams.key, bigrams.left, strict=True)}
    assert named == {(begin, A): 3, (begin, B): 1, (A, B): 1, (B, C): 2, (B, D): 1, (C, EOS): 1, (D, EOS): 1}
    assert sorted(trigrams.count.tolist()) == [1, 1, 1, 2, 3, 3]
    assert golden.num_ngrams == (6, 7, 6)


@pytest.mark.parametrize(
    ("context", "after_b", "after_a", "after_ab"),
    [
        (
            "raw",
            [0.4880952, 0.1666667, 0.0952381],
            [0.1904762, 0.5333333, 0.2761905],
            [0.4857143, 0.2, 0.1142857],
        ),
        (
            "continuations",
            [0.6507937, 0.2222222, 0.1269841],
            [0.1904762, 0.5333333, 0.2761905],
            [0.6071429, 0.25, 0.1428571],
        ),
    ],
)
def test_laplace_golden(
    context: str, after_b: list[float], after_a: list[float], after_ab: list[float]
) -> None:
    smoothing = Laplace((1.0, 2.0, 3.0), "unigram", context)  # type: ignore[arg-type]
    model = NGrams.fit([[0, 1, 0, 2, 0, 1]], 3, 3, smoothing)  # a b a c a b
    unigram = [10 / 21, 1 / 3, 4 / 21]
    for history, row in {(): unigram, (1,): after_b, (0,): after_a, (0, 1): after_ab}.items():
        np.testing.assert_allclose(np.exp(model.next_token_log_probs(history)), row, atol=5e-8)


def test_maximum_likelihood_is_the_share_of_the_count() -> None:
    model = NGrams.fit([[0, 1, 0, 2, 0, 1]], 2, 4, "mle")
    np.testing.assert_allclose(np.exp(model.next_token_log_probs([0])), [0, 2 / 3, 1 / 3, 0])
    assert model.log_probs([0, 0])[1] == -np.inf
    # A context never seen has no share to take: the unigram answers.
    np.testing.assert_allclose(np.exp(model.next_token_log_probs([3])), [3 / 6, 2 / 6, 1 / 6, 0])


def test_discounts_of_known_counts_of_counts() -> None:
    assert discounts([40, 15, 8, 5]) == pytest.approx((0.5714286, 1.0857143, 1.5714286), abs=1e-7)
    assert discounts([40, 15, 0, 5]) is None
    assert discounts([1, 10, 1, 1]) is not None
    assert discounts([10, 1, 10, 1]) is None  # D2 < 0


def told_plainly(
    documents: list[list[int]], size: int, order_discounts: list[tuple[float, float, float]]
) -> dict[tuple[int, ...], float]:
    """Spec 01 section 3 word for word: probability of every stored n-gram, `<s>` being ``size``."""
    order = len(order_discounts)
    raw: list[Counter[tuple[int, ...]]] = [Counter() for _ in range(order + 1)]
    left: dict[tuple[int, ...], set[int]] = defaultdict(set)
    for document in documents:
        padded = [size] * (order - 1) + document + [EOS]
        for t in range(max(order - 1, 0), len(padded)):
            for k in range(1, order + 1):
                gram = tuple(padded[t - k + 1 : t + 1])
                if gram.count(size) <= 1 and (k == 1 or gram[1] != size):
                    raw[k][gram] += 1
                    if t >= k:
                        left[gram].add(padded[t - k])
    adjusted = [
        {g: n if k == order or g[0] == size else len(left[g]) for g, n in raw[k].items()}
        for k in range(order + 1)
    ]
    prob: dict[tuple[int, ...], float] = {}
    contexts: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for row in adjusted:
        for g, a in row.items():
            contexts[g[:-1]].append(a)
    for k in range(1, order + 1):
        d = (0.0, *order_discounts[k - 1])
        grams = adjusted[k] if k > 1 else {(w,): adjusted[1].get((w,), 0) for w in range(size)}
        for g, a in grams.items():
            seen = contexts[g[:-1]]
            share = (a - d[min(a, 3)]) / sum(seen)
            weight = sum(d[min(x, 3)] for x in seen) / sum(seen)
            prob[g] = share + weight * (prob[g[1:]] if k > 1 else 1 / size)
    return prob


corpora = st.lists(st.lists(st.integers(1, 5), max_size=7), min_size=1, max_size=6)


@settings(max_examples=60, deadline=None)
@given(corpora, st.integers(1, 5))
def test_kneser_ney_equals_its_rules_told_plainly(documents: list[list[int]], order: int) -> None:
    model = NGrams.fit(documents, order, 6, QUIET, eos=EOS)
    wanted = told_plainly(documents, 6, model.discounts)
    assert sum(model.num_ngrams[1:]) == sum(len(g) > 1 for g in wanted)
    for gram, prob in wanted.items():
        begins = gram[0] == 6
        history = [w for w in gram[:-1] if w < 6]
        got = model.next_token_log_probs(history, begins=begins)[gram[-1]]
        assert np.exp(got) == pytest.approx(prob, abs=1e-12), gram


@settings(max_examples=40, deadline=None)
@given(corpora, st.integers(1, 5), st.booleans(), st.sampled_from(ESTIMATORS), st.data())
def test_every_conditional_sums_to_one(
    documents: list[list[int]], order: int, marked: bool, smoothing: KneserNey | Laplace, data: st.DataObject
) -> None:
    if not (marked or any(documents)):
        documents = [[1]]
    model = NGrams.fit(documents, order, 6, smoothing, eos=EOS if marked else None)
    contexts = [d[:t] for d in documents for t in range(len(d) + 1)]
    contexts += data.draw(st.lists(st.lists(st.integers(0, 5), max_size=6), min_size=3, max_size=3))
    for context in contexts:
        for begins in (True, False):
            assert np.exp(model.next_token_log_probs(context, begins=begins)).sum() == pytest.approx(
                1, abs=1e-9
            )


@settings(max_examples=40, deadline=None)
@given(
    corpora,
    st.lists(st.integers(0, 5), max_size=12),
    st.integers(1, 5),
    st.booleans(),
    st.sampled_from(ESTIMATORS),
)
def test_a_whole_text_scores_as_its_tokens_one_by_one(
    documents: list[list[int]], text: list[int], order: int, marked: bool, smoothing: KneserNey | Laplace
) -> None:
    model = NGrams.fit([[1, 2], *documents], order, 6, smoothing, eos=EOS if marked else None)
    for begins in (True, False):
        one_by_one = [model.next_token_log_probs(text[:t], begins=begins)[w] for t, w in enumerate(text)]
        np.testing.assert_allclose(model.log_probs(text, begins=begins), one_by_one, atol=1e-12)


def test_a_packed_stream_scores_as_its_documents(golden: NGrams) -> None:
    apart = [golden.log_probs([A, B, C, EOS]), golden.log_probs([EOS]), golden.log_probs([B, D, EOS])]
    together = golden.log_probs([A, B, C, EOS, EOS, B, D, EOS])
    np.testing.assert_array_equal(together, np.concatenate(apart))


def test_documents_packed_or_apart_give_one_model(golden: NGrams) -> None:
    packed = NGrams.fit([[A, B, C, EOS, A, B, D, EOS], [B, C, EOS, A, B, C]], 3, 6, QUIET, eos=EOS)
    text = np.random.default_rng(0).integers(0, 6, 50)
    np.testing.assert_array_equal(packed.log_probs(text), golden.log_probs(text))


def test_models_of_lower_order_share_the_counts() -> None:
    rng = np.random.default_rng(1)
    documents = [rng.integers(1, 6, 30) for _ in range(20)]
    counts = Counts.of(documents, 4, 6, eos=EOS)
    for order in (1, 2, 3):
        alone = NGrams.fit(documents, order, 6, QUIET, eos=EOS)
        shared = NGrams.of(counts, QUIET, order)
        np.testing.assert_array_equal(shared.log_probs(documents[0]), alone.log_probs(documents[0]))
        np.testing.assert_array_equal(
            shared.next_token_log_probs(documents[0]), alone.next_token_log_probs(documents[0])
        )


@pytest.mark.parametrize("smoothing", [QUIET, Laplace((1.0, 2.0, 0.5)), Laplace(0.0)])
def test_a_saved_model_comes_back_bit_for_bit(tmp_path: Path, smoothing: KneserNey | Laplace) -> None:
    rng = np.random.default_rng(2)
    documents = [rng.integers(1, 9, rng.integers(0, 30)) for _ in range(20)]
    model = NGrams.fit(documents, 3, 9, smoothing, eos=EOS)
    model.save(tmp_path / "model.safetensors")
    again = NGrams.load(tmp_path / "model.safetensors")
    assert (again.order, again.smoothing, again.eos) == (3, smoothing, EOS)
    text = rng.integers(0, 9, 200)
    np.testing.assert_array_equal(again.log_probs(text), model.log_probs(text))


def test_a_damaged_file_is_one_sentence(tmp_path: Path, golden: NGrams) -> None:
    path = tmp_path / "model.safetensors"
    golden.save(path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UserError, match="fit it again"):
        NGrams.load(path)
    with pytest.raises(UserError, match=r"missing\.safetensors"):
        NGrams.load(tmp_path / "missing.safetensors")


def english() -> list[list[str]]:
    """Real prose that every Python brings along."""
    prose = "\n\n".join(topics[name] for name in sorted(topics))
    sentences = re.split(r"(?<=[.:])\s+", prose)
    return [re.findall(r"\w+|[^\w\s]", s.lower()) for s in sentences if len(s) > 20]


DAODEJING = """道可道，非常道。名可名，非常名。无名天地之始，有名万物之母。故常无欲，以观其妙；常有欲，以观其徼。
此两者同出而异名，同谓之玄，玄之又玄，众妙之门。
天下皆知美之为美，斯恶已；皆知善之为善，斯不善已。故有无相生，难易相成，长短相较，高下相倾，
音声相和，前后相随。是以圣人处无为之事，行不言之教，万物作焉而不辞，生而不有，为而不恃，功成而弗居。夫唯弗居，是以不去。
不尚贤，使民不争；不贵难得之货，使民不为盗；不见可欲，使民心不乱。是以圣人之治，虚其心，实其腹，弱其志，强其骨。常使民无知无欲，使夫智者不敢为也。为无为，则无不治。
道冲而用之或不盈，渊兮似万物之宗。挫其锐，解其纷，和其光，同其尘，湛兮似或存。吾不知谁之子，象帝之先。
天地不仁，以万物为刍狗；圣人不仁，以百姓为刍狗。天地之间，其犹橐籥乎？虚而不屈，动而愈出。多言数穷，不如守中。
谷神不死，是谓玄牝。玄牝之门，是谓天地根。绵绵若存，用之不勤。
天长地久。天地所以能长且久者，以其不自生，故能长生。是以圣人后其身而身先，外其身而身存。非以其无私邪？故能成其私。
上善若水。水善利万物而不争，处众人之所恶，故几于道。居善地，心善渊，与善仁，言善信，正善治，事善能，动善时。夫唯不争，故无尤。"""


def chinese() -> list[list[str]]:
    return [list(s) for s in re.split(r"(?<=[，；。？])", DAODEJING.replace("\n", "")) if s]


@pytest.mark.parametrize("sentences", [english(), chinese()], ids=["english", "chinese"])
def test_longer_contexts_and_better_smoothing_help_on_text(sentences: list[list[str]]) -> None:
    order = np.random.default_rng(0).permutation(len(sentences))
    cut = min(1000, len(sentences) * 4 // 5)
    train, held_out = ([sentences[i] for i in part] for part in (order[:cut], order[cut : cut + 200]))
    frequent = Counter(w for s in train for w in s).most_common(1500)
    number = {word: i for i, (word, _) in enumerate(frequent, 2)}
    train_ids, held_out_ids = ([[number.get(w, UNK) for w in s] for s in part] for part in (train, held_out))
    size = len(number) + 2

    def loss(order: int, smoothing: KneserNey | Laplace) -> float:
        model = NGrams.fit(train_ids, order, size, smoothing, eos=EOS)
        return float(-np.concatenate([model.log_probs([*s, EOS]) for s in held_out_ids]).mean())

    one, two, three = (loss(order, QUIET) for order in (1, 2, 3))
    assert np.log(size) > one > two > three
    assert three < loss(3, Laplace(1.0))
    assert loss(4, Laplace(0.0)) == np.inf


def test_sampling_from_the_conditional_matches_it(golden: NGrams) -> None:
    prob = np.exp(golden.next_token_log_probs([A]))
    draws = np.random.default_rng(0).choice(6, size=20_000, p=prob)
    share = np.bincount(draws, minlength=6) / 20_000
    assert (np.abs(share - prob) <= 3 * np.sqrt(prob * (1 - prob) / 20_000) + 1e-12).all()


def test_what_is_wrong_is_said() -> None:
    with pytest.raises(UserError, match="at least one token"):
        NGrams.fit([], 3, 5)
    with pytest.raises(UserError, match="at least one token"):
        NGrams.fit([[]], 3, 5)
    with pytest.raises(ValueError, match="token id 5 is outside the vocabulary of 5"):
        NGrams.fit([[1, 5]], 2, 5)
    with pytest.raises(ValueError, match="token id -1 is outside"):
        NGrams.fit([[1, 2]], 2, 5, QUIET).log_probs([-1])
    with pytest.raises(ValueError, match="at least 1"):
        NGrams.fit([[1, 2]], 0, 5)
    with pytest.raises(ValueError, match="none may be negative"):
        Laplace(-1.0)
    with pytest.raises(UserError, match=r"discounts of order 1 .* 3, 1 and 0 n-grams"):
        NGrams.fit([[1, 2, 3, 0, 0]], 1, 5, KneserNey("error"))
    with pytest.warns(UserWarning, match="small text"):
        NGrams.fit([[1, 2, 3, 0, 0]], 1, 5)


def test_counts_generate_through_the_loop_all_families_share(golden: NGrams) -> None:
    model = HistoryModel(golden.next_token_log_probs)
    [greedy] = generate(model, [[A]], Decoding(max_new_tokens=9, temperature=0, eos=(EOS,)))
    assert greedy.ids == (B, C, EOS)
    np.testing.assert_allclose(greedy.log_probs, golden.log_probs([A, B, C, EOS])[1:], atol=1e-12)
    drawn = generate(model, [[A]], Decoding(max_new_tokens=9, eos=(EOS,), seed=3), samples=40)
    assert {len(g.ids) for g in drawn} != {3}
    for text in drawn[:5]:
        np.testing.assert_allclose(text.log_probs, golden.log_probs([A, *text.ids])[1:], atol=1e-12)


@settings(max_examples=12, deadline=None)
@given(st.lists(corpora, min_size=1, max_size=4), st.integers(1, 4), st.booleans())
def test_pieces_that_merge_are_the_whole_counted_at_once(
    pieces: list[list[list[int]]], order: int, marked: bool
) -> None:
    pieces = [[[1, 2], *piece] for piece in pieces]
    eos = EOS if marked else None
    whole = Counts.of([d for piece in pieces for d in piece], order, 6, eos=eos)
    with tempfile.TemporaryDirectory() as folder:
        runs = Runs(Path(folder), 6, eos)
        for number, piece in enumerate(pieces):
            assert not runs.has(number)
            runs.add(number, Counts.of(piece, order, 6, eos=eos))
            assert runs.has(number)
        merged = runs.merged(len(pieces))
    first, *others = (Counts.of(piece, order, 6, eos=eos) for piece in pieces)
    for other in others:
        first = first.merge(other)
    for found in (merged, first):
        for level, wanted in zip(found.levels, whole.levels, strict=True):
            for name in ("key", "count", "left"):
                np.testing.assert_array_equal(getattr(level, name), getattr(wanted, name))


def test_a_damaged_piece_is_one_sentence(tmp_path: Path) -> None:
    runs = Runs(tmp_path, 6, EOS)
    runs.add(0, Counts.of([[1, 2]], 2, 6, eos=EOS))
    (tmp_path / "000000" / "2.key.npy").write_bytes(b"")
    with pytest.raises(UserError, match="counts that piece anew"):
        runs.merged(1)


def test_documents_end_to_end_count_as_apart() -> None:
    documents = [[1, 2, 3], [2], [3, 3, 1]]
    ends = np.array([0, 3, 4, 7])
    for eos in (None, EOS):
        flat = Counts.of_documents(np.concatenate(documents), ends, 3, 6, eos=eos)
        apart = Counts.of(documents, 3, 6, eos=eos)
        for a, b in zip(flat.levels, apart.levels, strict=True):
            np.testing.assert_array_equal(a.key, b.key)
            np.testing.assert_array_equal(a.count, b.count)


def test_a_plain_streams_beginning_is_no_context() -> None:
    counts = Counts.of([[0, 1, 0, 2, 0, 1], [2]], 2, 3)
    pairs = [divmod(int(key), 3) for key in counts.levels[1].key]
    assert pairs == [(0, 1), (0, 2), (1, 0), (2, 0)]
    assert counts.levels[0].left[:3].tolist() == [2, 1, 1], "nor does it stand before a token"


@pytest.mark.parametrize("eos", [EOS, None])
def test_neither_threads_nor_pieces_change_a_bit(monkeypatch: pytest.MonkeyPatch, eos: int | None) -> None:
    draw = np.random.default_rng(7)
    documents = [draw.zipf(1.3, draw.integers(0, 30)).clip(max=90) for _ in range(60)]
    documents[3] = np.array([4, EOS, 5, EOS, EOS, 6])  # packed, where there are ends
    ids, ends = np.concatenate(documents), np.cumsum([0, *map(len, documents)])

    def found() -> list[bytes]:
        counts = Counts.of_documents(ids, ends, 4, 91, eos=eos)
        arrays = [a for level in counts.levels for a in (level.key, level.count, level.left)]
        model = NGrams.of(counts, QUIET)
        return [a.tobytes() for a in (*arrays, model.score(documents), model.score_documents(ids, ends))]

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    alone = found()
    assert alone[-1] == alone[-2]
    monkeypatch.setattr("plume.models.counts._WORTH_THREADS", 0)
    for threads, piece in (("2", 100), ("3", 7), ("5", 64)):
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        monkeypatch.setattr("plume.models.ngrams._PIECE", piece)
        assert found() == alone, (threads, piece)


@settings(max_examples=40, deadline=None)
@given(corpora, st.integers(1, 4), st.sampled_from([(0, 0, 1), (0, 1), (0, 1, 2), (0, 0, 0, 3)]))
def test_what_pruning_drops_goes_to_the_order_below(
    documents: list[list[int]], order: int, prune: tuple[int, ...]
) -> None:
    full = NGrams.fit(documents, order, 6, QUIET, eos=EOS)
    pruned = NGrams.fit(documents, order, 6, KneserNey((0.5, 1.0, 1.5), prune), eos=EOS)
    raw = Counts.of(documents, order, 6, eos=EOS)
    for k, level in enumerate(raw.levels[1:], 2):
        assert pruned.num_ngrams[k - 1] == int((level.count > pruned.smoothing.threshold(k)).sum())
    assert pruned.discounts == full.discounts, "discounts are computed before anything is dropped"
    for context in [[], *(d[:t] for d in documents for t in range(len(d)))]:
        assert np.exp(pruned.next_token_log_probs(context)).sum() == pytest.approx(1, abs=1e-9)


def test_pruning_by_hand() -> None:
    # a b c | a b d | b c | a b c: of the trigrams `<s> b c` (1), `a b d` (1) and `b d </s>` (1) go.
    model = NGrams.fit(
        [[A, B, C], [A, B, D], [B, C], [A, B, C]], 3, 6, KneserNey((0.5, 1.0, 1.5), (0, 0, 1)), eos=EOS
    )
    assert model.num_ngrams == (6, 7, 3)
    full = NGrams.fit([[A, B, C], [A, B, D], [B, C], [A, B, C]], 3, 6, QUIET, eos=EOS)
    below = np.exp(full.next_token_log_probs([B], begins=False))
    # a(a b c) = 2 is kept, D = 1; a(a b d) = 1 is dropped; A = 3: gamma = (1 + 1) / 3.
    got = np.exp(model.next_token_log_probs([A, B], begins=False))
    assert got[C] == pytest.approx((2 - 1) / 3 + 2 / 3 * below[C], abs=1e-12)
    assert got[D] == pytest.approx(2 / 3 * below[D], abs=1e-12)


def test_where_the_notes_formulas_lose_mass() -> None:
    smoothing = Laplace((1.0, 2.0, 3.0), "unigram", "raw")
    model = NGrams.fit(
        [[0, 1, 0, 2, 0, 1]], 3, 3, smoothing
    )  # a b a c a b: nothing follows the last b and a b
    assert model.missing_mass() == [((1,), pytest.approx(0.75)), ((0, 1), pytest.approx(0.8))]
    assert NGrams.fit([[0, 1, 0, 2, 0, 1]], 3, 3, Laplace((1.0, 2.0, 3.0))).missing_mass() == []


def notes(history: list[int], token: int, text: list[int], eps: tuple[float, float, float]) -> float:
    """The three formulas as the lecture notes print them (spec 01 section 2)."""

    def n(*gram: int) -> int:
        return sum(tuple(text[i : i + len(gram)]) == gram for i in range(len(text) - len(gram) + 1))

    unigram = (n(token) + eps[0] / len(set(text))) / (len(text) + eps[0])
    if not history:
        return unigram
    e = eps[len(history)]
    return (n(*history, token) + e * unigram) / (n(*history) + e)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=40),
    st.tuples(*[st.floats(0.01, 50)] * 3),
)
def test_the_notes_formulas_as_printed(text: list[int], eps: tuple[float, float, float]) -> None:
    kinds = sorted(set(text))
    text = [kinds.index(t) for t in text]
    model = NGrams.fit([text], 3, len(kinds), Laplace(eps, "unigram", "raw"))
    # A context that was never seen says nothing, and the level below answers: the notes have 0 / 0 at eps = 0.
    histories: list[list[int]] = [[], *([a] for a in set(text)), *(list(p) for p in itertools.pairwise(text))]
    for history in histories:
        got = np.exp(model.next_token_log_probs(history))
        wanted = [notes(history, token, text, eps) for token in range(len(kinds))]
        np.testing.assert_allclose(got, wanted, atol=1e-12, rtol=0)


def test_the_limits_of_eps() -> None:
    text = [[0, 1, 0, 2, 0, 1, 3]]
    bare = NGrams.fit(text, 2, 4, Laplace(0.0))
    near = NGrams.fit(text, 2, 4, Laplace(1e-13))
    np.testing.assert_allclose(
        np.exp(near.next_token_log_probs([0])), np.exp(bare.next_token_log_probs([0])), atol=1e-12
    )
    far = NGrams.fit(text, 2, 4, Laplace((0.5, 1e15)))
    np.testing.assert_allclose(far.next_token_log_probs([0]), far.next_token_log_probs([]), atol=1e-9)
    uniform = NGrams.fit(text, 1, 4, Laplace(1e15))
    np.testing.assert_allclose(np.exp(uniform.next_token_log_probs([])), 0.25, atol=1e-12)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=5), st.integers(1, 4))
def test_the_chain_rule_holds_for_texts_in_every_script(texts: list[str], order: int) -> None:
    letters = {c: i for i, c in enumerate(sorted(set("".join(texts))), 1)}
    documents = [[letters[c] for c in text] for text in texts]
    model = NGrams.fit(documents, order, len(letters) + 1, QUIET, eos=EOS)
    for document in documents:
        chain = sum(model.next_token_log_probs(document[:t])[w] for t, w in enumerate([*document, EOS]))
        assert model.log_probs([*document, EOS]).sum() == pytest.approx(chain, abs=1e-9)


@pytest.mark.parametrize("documents", [[[1]], [[1, 2, 3, 4, 5]], [[1] * 200], [[1, 2, 1, 2]] * 50])
def test_corpora_too_small_for_discounts_fall_back_and_say_so(documents: list[list[int]]) -> None:
    with pytest.warns(UserWarning, match=r"0\.5, 1 and 1\.5 are used instead"):
        model = NGrams.fit(documents, 3, 6, eos=EOS)
    assert not all(model.estimated)
    assert np.exp(model.next_token_log_probs(documents[0][:2])).sum() == pytest.approx(1, abs=1e-12)
    assert model.score(documents).mean() > -np.log(6)


def test_ids_that_are_no_text_get_nothing() -> None:
    model = NGrams.fit([[1, 2, 3]], 2, 6, QUIET, eos=EOS, never=[5])
    probs = np.exp(model.next_token_log_probs([1]))
    assert probs[5] == 0 and probs[4] > 0 and probs.sum() == pytest.approx(1, abs=1e-12)


def test_a_saved_model_takes_few_bytes_and_is_read_where_it_lies(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    follow = rng.integers(1, 2000, (2000, 6))
    text = [1]
    for _ in range(60_000):
        text.append(int(follow[text[-1], rng.integers(6)] if rng.random() < 0.8 else rng.integers(1, 2000)))
    model = NGrams.fit([np.array(text)], 5, 2000, QUIET, eos=EOS)
    model.save(tmp_path / "model.safetensors")
    mapped = NGrams.load(tmp_path / "model.safetensors")
    each = mapped.num_bytes / sum(mapped.num_ngrams)
    assert each < 8 and (tmp_path / "model.safetensors").stat().st_size < 8.2 * sum(mapped.num_ngrams)
    held: object = mapped.orders[-1].token
    while isinstance(held, np.ndarray) and not isinstance(held, np.memmap):
        held = held.base
    assert isinstance(held, np.memmap), "the file's own bytes, not a copy"
    np.testing.assert_array_equal(mapped.log_probs(text[:500]), model.log_probs(text[:500]))


def test_large_counts_and_wide_vocabularies_are_kept_whole() -> None:
    # 300 > 255, a context with more than 2^16 followers, ids beyond 16 bits.
    many = np.arange(1, 70_001)
    stream = np.stack([np.full(70_000, 70_001), many], 1).ravel()
    model = NGrams.fit([stream, np.tile([3, 4], 300)], 2, 70_002, Laplace(0.0))
    assert np.exp(model.next_token_log_probs([70_001])[[1, 70_000]]) == pytest.approx(1 / 70_000)
    assert np.exp(model.next_token_log_probs([4])[3]) == pytest.approx(299 / 300)
    assert np.exp(model.log_probs([4, 3]))[1] == pytest.approx(299 / 300)
    assert np.exp(model.log_probs([3, 4]))[1] == pytest.approx(300 / 301)


def test_a_file_whose_parts_do_not_fit_together_is_refused(tmp_path: Path, golden: NGrams) -> None:
    path = tmp_path / "model.safetensors"
    golden.save(path)
    arrays = load_file(path)
    with safe_open(path, "numpy") as file:
        header = file.metadata()
    offset = arrays["3.offset"].copy()
    offset[-1] += 9  # would lead past the end
    save_file({**arrays, "3.offset": offset}, path, header)
    with pytest.raises(UserError, match="do not fit together"):
        NGrams.load(path)
