"""C ranks against the receiver of the Python side: data, semantics of put, flow control, news."""

import socket
import time
from dataclasses import replace

import numpy as np
import pytest
from c_ranks import (
    CONTACT,
    CONTRACT,
    GEOMETRY,
    INCOMPLETE,
    LATE,
    LOST,
    NOTHING,
    REFUSED,
    RUN,
    STOPPED,
    USAGE,
    RankError,
    agree,
    coupling,
    delivered,
    expected,
    join_all,
    spec_of,
)

from ips_components.model.contract import ArrayContract, Contract
from ips_components.model.decomposition import Decomposition
from ips_components.model.selection import Selection
from ips_components.model.spec import ArraySpec, StepAxis
from ips_components.wire import contact as contacts
from ips_components.wire.messages import StepEnd

LANES = ["shm", "tcp"]


def offer_blocks(start, spec, grid, halo=None, lane=""):
    """Ranks of the regular decomposition that describe the array."""
    blocks = Decomposition.regular(spec.shape, grid).blocks
    ranks = []
    for number, (block,) in enumerate(blocks):
        rank = start(number, len(blocks), IPS_COMPONENTS_LANE=lane)
        rank.offer(spec, block.offset, block.shape, halo)
        ranks.append(rank)
    return ranks


def close_all(ranks):
    for rank in ranks:
        rank.tell("close", 0)
    for rank in ranks:
        rank.answer()


def run_steps(ranks, spec, order="C"):
    for t in range(spec.steps.count):
        step = spec.steps.step(t)
        for rank in ranks:
            rank.tell("put", spec.name, step, order)
        for rank in ranks:
            rank.answer()
    close_all(ranks)


@pytest.mark.parametrize("lane", LANES)
@pytest.mark.parametrize("order", ["C", "F", "R"])
def test_blocks_with_halo_of_four_ranks_arrive(start, sinks, tmp_path, lane, order):
    spec = spec_of(start=10, every=5)
    made = sinks(2)
    contract = agree(spec, receivers=2)
    with coupling(tmp_path, made, contract) as (contact, _):
        ranks = offer_blocks(start, spec, (2, 2), (1, 2), lane)
        join_all(ranks, contact, tmp_path)
        run_steps(ranks, spec, order)
        made[0].wait(lambda: len(made[0].byes) == 4)
        array = contract.arrays[0]
        chunks = made[0].chunks | made[1].chunks
        assert (delivered(array, chunks) == expected(array)).all()
        assert {n for sink in made for n in sink.counts.values()} == {1}
        assert {hello.lane for sink in made for hello in sink.hellos} == {lane}
        for bye in made[0].byes.values():
            (counters,) = bye.counters
            assert (bye.status, bye.last_step, counters.closed) == ("ok", 35, True)
            assert counters.blocks == (6, 0, 6, 0, 0)
            assert counters.bytes == (6 * 192, 0, 6 * 192, 0, 0)
        del chunks
    for rank in ranks:
        assert rank.end() == (0, "")


DTYPES = ["|b1", "|i1", "|u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8", "<f2", "<f4", "<f8"]


@pytest.mark.parametrize("dtype", [*DTYPES, "<c8", "<c16", "<f16", ">f8", "|S3"])
def test_every_type_of_cells(start, sinks, tmp_path, dtype):
    spec = spec_of(dtype=dtype, shape=(3, 7), count=2)
    (sink,) = sinks()
    selection = Selection((0, 0, 1), (2, 3, 3), (1, 1, 2))
    contract = agree(spec, selections=[selection])
    with coupling(tmp_path, [sink], contract) as (contact, _):
        (rank,) = offer_blocks(start, spec, (1, 1), (0, 1))
        join_all([rank], contact, tmp_path)
        run_steps([rank], spec)
        array = contract.arrays[0]
        assert (delivered(array, sink.chunks) == expected(array)).all()
        assert {value.dtype.str for value in sink.chunks.values()} == {dtype}


def test_only_what_is_wanted_is_sent_and_all_is_accounted(start, sinks, tmp_path):
    spec = spec_of(count=12)
    selections = [
        Selection.from_key(np.s_[2::3, 1:5:2, 3:], (12, 8, 12)),
        Selection.from_key(np.s_[5, :, 0], (12, 8, 12)),
    ]
    (sink,) = sinks()
    contract = agree(spec, selections=selections, chunks=(2, 3, 5))
    with coupling(tmp_path, [sink], contract) as (contact, _):
        ranks = offer_blocks(start, spec, (4, 1), (1, 0))
        join_all(ranks, contact, tmp_path)
        run_steps(ranks, spec)
        array = contract.arrays[0]
        assert set(sink.counts) == {(0, int(c)) for c in array.needed_ids()}
        assert (delivered(array, sink.chunks) == expected(array)).all()
        total = sum(part.size for part in array.wanted) * 8
        numbers = [bye.counters[0] for bye in sink.byes.values()]
        assert all(one.closed for one in numbers)
        assert sum(one.bytes[2] for one in numbers) == total
        assert sum(one.bytes[0] for one in numbers) == 12 * 8 * 12 * 8
        assert sum(one.blocks[0] for one in numbers) == 4 * 12


@pytest.mark.parametrize("lane", LANES)
def test_computed_in_place(start, sinks, tmp_path, lane):
    spec = spec_of(shape=(300, 200), count=5)  # pieces beyond what is copied behind a header
    (sink,) = sinks()
    contract = agree(spec, selections=[Selection.from_key(np.s_[1:, :, 2:], (5, 300, 200))])
    with coupling(tmp_path, [sink], contract) as (contact, _):
        ranks = offer_blocks(start, spec, (1, 2), (1, 1), lane)
        join_all(ranks, contact, tmp_path)
        for step in range(5):
            for rank in ranks:
                rank("acquire", "t", step)
                with pytest.raises(RankError, match="not published yet"):
                    rank("acquire", "t", step)
                if step == 2:
                    rank("fill", "t", 99)
                    rank("discard", "t")
                    rank("acquire", "t", step)
                rank("fill", "t", step)
                rank("publish", "t")
                with pytest.raises(RankError, match="nothing is acquired"):
                    rank("publish", "t")
        close_all(ranks)
        array = contract.arrays[0]
        assert (delivered(array, sink.chunks) == expected(array)).all()
        assert sum(b.counters[0].blocks[1] for b in sink.byes.values()) == 2  # step 0


@pytest.mark.parametrize("lane", LANES)
def test_large_blocks(start, sinks, tmp_path, lane):
    spec = spec_of(shape=(700, 1100), count=4)  # 6 MB a block: more than a socket takes
    (sink,) = sinks()
    contract = agree(spec)
    with coupling(tmp_path, [sink], contract) as (contact, _):
        (rank,) = offer_blocks(start, spec, (1, 1), (0, 0), lane)
        join_all([rank], contact, tmp_path)
        run_steps([rank], spec)
        array = contract.arrays[0]
        assert (delivered(array, sink.chunks) == expected(array)).all()


def test_a_number_per_step(start, sinks, tmp_path):
    spec = spec_of(shape=(), count=3)
    (sink,) = sinks()
    contract = agree(spec)
    with coupling(tmp_path, [sink], contract) as (contact, _):
        rank = start()
        rank.offer(spec, (), ())
        join_all([rank], contact, tmp_path)
        run_steps([rank], spec)
        assert (delivered(contract.arrays[0], sink.chunks) == expected(contract.arrays[0])).all()


def test_blocks_that_move(start, sinks, tmp_path):
    spec = spec_of(count=3)
    (sink,) = sinks()
    contract = agree(spec)
    with coupling(tmp_path, [sink], contract) as (contact, _):
        ranks = [start(0, 2), start(1, 2)]
        for rank in ranks:
            rank("array", "t", 8, 2, 8, 12)
        join_all(ranks, contact, tmp_path)
        for step in range(3):
            cut = 2 + step
            ranks[0]("put_block", "t", step, "F", 0, 0, cut, 12)
            ranks[1]("put_block", "t", step, "C", cut, 0, 8 - cut, 6)
            ranks[1]("put_block", "t", step, "C", cut, 6, 8 - cut, 6)
        with pytest.raises(RankError) as refused:
            ranks[0]("put_block", "t", 0, "C", 4, 0, 5, 12)
        assert refused.value.code == GEOMETRY
        close_all(ranks)
        assert (delivered(contract.arrays[0], sink.chunks) == expected(contract.arrays[0])).all()


def test_several_blocks_of_one_rank(start, sinks, tmp_path):
    spec = spec_of(count=2)
    (sink,) = sinks()
    contract = agree(spec)
    with coupling(tmp_path, [sink], contract) as (contact, _):
        rank = start()
        rank.offer(spec, (0, 0), (3, 12), (0, 0))
        rank("block", "t", "f8", 3, 0, 5, 12, 0, 0)
        join_all([rank], contact, tmp_path)
        with pytest.raises(RankError, match="2 blocks"):
            rank("put_null", "t", 0)
        for step in range(2):
            rank("put_block", "t", step, "C", 0, 0, 3, 12)
            rank("put_block", "t", step, "C", 3, 0, 5, 12)
        rank("close", 0)
        assert sink.hellos[-1].blocks == {"t": [((0, 0), (3, 12)), ((3, 0), (5, 12))]}
        assert (delivered(contract.arrays[0], sink.chunks) == expected(contract.arrays[0])).all()


def row_cells(rank, rows, columns, step):
    index = rank * 1000003 + np.arange(rows * columns).reshape(rows, columns)
    k = np.arange(4)
    return (index[..., None] * 7 + step * 13 + k * 31).astype(np.uint8)


@pytest.mark.parametrize("lane", LANES)
def test_rows_that_vary(start, sinks, tmp_path, lane):
    spec = ArraySpec("x", "<f4", (-1, 3), StepAxis(count=4), ragged=True)
    counts = [[5, 0, 2], [0, 0, 0], [1, 7, 3], [2, 2, 20000]]
    made = sinks(2)
    contract = agree(
        spec, selections=[Selection.from_key(np.s_[::2, :, 1:], (4, 2, 3))], receivers=2
    )
    with coupling(tmp_path, made, contract) as (contact, _):
        ranks = [start(i, 3, IPS_COMPONENTS_LANE=lane) for i in range(3)]
        for rank in ranks:
            rank.offer(spec, (), ())
        join_all(ranks, contact, tmp_path)
        for step, rows in enumerate(counts):
            for rank, n in zip(ranks, rows, strict=True):
                rank.tell("rows", "x", step, n)
            for rank in ranks:
                rank.answer()
        close_all(ranks)
        chunks = made[0].chunks | made[1].chunks
        assert sorted(chunks) == [(0, 0), (0, 1), (0, 4), (0, 5)]
        for (_, chunk), value in chunks.items():
            step, part = divmod(chunk, 2)
            own = [r for r in range(3) if r * 2 // 3 == part]
            rows = np.concatenate([row_cells(r, counts[step][r], 3, step)[:, 1:] for r in own])
            raw = np.ascontiguousarray(value).view(np.uint8).reshape(-1, 2, 4)
            assert (raw == rows).all()
        del chunks, value, raw
        assert all(bye.counters[0].closed for bye in made[0].byes.values())


def test_described_in_code_until_the_analysis_agrees(start, sinks, tmp_path):
    (sink,) = sinks()
    with coupling(tmp_path, [sink]) as (contact, (receiver,)):
        ranks = [start(0, 2), start(1, 2)]
        spec = spec_of(start=4, every=2, dims=("y", "x"), attrs={"units": "K", "note": 'say "so"'})
        for number, rank in enumerate(ranks):
            rank.offer(spec, (4 * number, 0), (4, 12))
            rank("dims", "t", "y,x")
            rank("attribute", "t", "units", "K")
            rank("attribute", "t", "note", 'say "so"')
            rank("declare", "unwanted", "f4", 1, 5)
        ranks[0].tell("request", contact, tmp_path / "blob")
        sink.wait(lambda: sink.arrays)
        (offers,) = sink.arrays
        assert [one["name"] for one in offers] == ["t", "unwanted"]
        axis = StepAxis(**offers[0]["steps"])
        offered = ArraySpec(**{**offers[0], "shape": tuple(offers[0]["shape"]), "steps": axis})
        assert offered == spec
        contract = Contract(RUN, (ArrayContract.agree(offered, run=RUN),))
        receiver.set_contract(contract)
        ranks[0].answer()
        for rank in ranks:
            rank("join", tmp_path / "blob")
            rank("array", "unwanted", 4, 1, 5)
            rank("put_null", "unwanted", 4)
        run_steps(ranks, spec)
        assert (delivered(contract.arrays[0], sink.chunks) == expected(contract.arrays[0])).all()
        assert ranks[0].account("unwanted")[0] == [1, 1, 0, 0, 0]
        assert sink.hellos[-1].blocks["t"] in ([((0, 0), (4, 12))], [((4, 0), (4, 12))])


def test_described_by_the_config(start, sinks, tmp_path):
    spec = spec_of(count=2, attrs={"process_grid": [1, 3], "halo": [1, 0]})
    (sink,) = sinks()
    contract = agree(spec)
    with coupling(tmp_path, [sink], contract) as (contact, _):
        ranks = [start(i, 3) for i in range(3)]
        join_all(ranks, contact, tmp_path)
        for step in range(2):
            for number, rank in enumerate(ranks):
                if step == 0:
                    rank("array", "t", 8, 2, 8, 12)
                rank("halo", "t", 1, 0)
                rank("put_block", "t", step, "C", 0, 4 * number, 8, 4)
        close_all(ranks)
        assert (delivered(contract.arrays[0], sink.chunks) == expected(contract.arrays[0])).all()
        assert sorted(box for h in sink.hellos for box in h.blocks.get("t", ())) == [
            ((0, 4 * i), (8, 4)) for i in range(3)
        ]


@pytest.mark.parametrize(
    ("words", "code", "complaint"),
    [
        (["declare", "t", "f4", 2, 8, 12], CONTRACT, "another type, shape or steps"),
        (["declare", "t", "f8", 2, 8, 11], CONTRACT, r"shape\[1\] = 11, but the contract"),
        (["declare", "u", "f8", 2, 8, 12], CONTRACT, "rename one of them"),
    ],
)
def test_a_program_that_contradicts_the_contract(start, sinks, tmp_path, words, code, complaint):
    with coupling(tmp_path, sinks(), agree(spec_of())) as (contact, _):
        rank = start()
        rank(*words)
        rank("request", contact, tmp_path / "blob")
        with pytest.raises(RankError, match=complaint) as refused:
            rank("join", tmp_path / "blob")
        assert refused.value.code == code


def test_every_code_has_a_text_of_its_own(start):
    rank = start()
    texts = [rank("code_text", code) for code in range(STOPPED, INCOMPLETE + 1)]
    assert len(set(texts)) == len(texts)
    assert "stopped the run" in rank("code_text", STOPPED)
    assert {rank("code_text", code) for code in (-99, 99)} == {"unknown code"}


def test_an_array_has_one_description(start):
    rank = start()
    rank("declare", "t", "f8", 2, 8, 12)
    for again in (["f8", 2, 8, 12], ["f4", 2, 8, 12], ["f8", 1, 8]):
        with pytest.raises(RankError, match="array t is declared twice") as refused:
            rank("declare", "t", *again)
        assert refused.value.code == USAGE


VIEWS = {
    "itemsize": ([4, 2, 8, 12, 48, 4], "cells have 4 bytes, those of type <f8 have 8"),
    "dimensions": ([8, -1], "a view of -1 dimensions"),
    "shape": ([8, 2, 12, 7, 56, 8], "expected a block of 96 cells"),
    "gaps": ([8, 2, 12, 8, 80, 8], "expected a block of 96 cells"),
    "negative": ([8, 2, -8, -12, 96, 8], "a view of -8 cells along dimension 0"),
}


@pytest.mark.parametrize("wrong", VIEWS)
def test_views_that_cannot_be_of_a_block(start, sinks, tmp_path, wrong):
    """What another library says of its memory: item size, extents and strides."""
    words, complaint = VIEWS[wrong]
    with coupling(tmp_path, sinks(), agree(spec_of())) as (contact, _):
        rank = start()
        rank.offer(spec_of(), (0, 0), (8, 12))
        join_all([rank], contact, tmp_path)
        named = "put of array t at step 3 on rank 0: "
        with pytest.raises(RankError, match=named + complaint):
            rank("view", "t", 3, *words)
        for step in range(6):
            rank("put", "t", step, "C")
        rank("close", 0)


def test_wrong_uses_are_refused(start, sinks, tmp_path):
    with coupling(tmp_path, sinks(), agree(spec_of())) as (contact, _):
        rank = start()
        for words in (
            ["declare", "no-name", "f8", 1, 4],
            ["declare", "t", "f9", 1, 4],
            ["declare", "t", "f8", 16],
            ["declare", "t", "f8", 1, 0],
            ["steps", "t", 0, 1, 5],
            ["step_end", 0],
            ["progress"],
            ["receive", "gain", 0, 0],
        ):
            with pytest.raises(RankError) as refused:
                rank(*words)
            assert refused.value.code == USAGE, words
        rank.offer(spec_of(), (0, 0), (8, 12))
        join_all([rank], contact, tmp_path)
        with pytest.raises(RankError, match="no cells"):
            rank("put_null", "t", 0)
        rank("array", "u", 8, 1, 4)
        with pytest.raises(RankError, match="not declared"):
            rank("put_null", "u", 0)
        with pytest.raises(RankError, match="not ragged"):
            rank("rows", "t", 0, 3)
        with pytest.raises(RankError, match="joins once"):
            rank("join", tmp_path / "blob")
        rank("close", 0)
        rank("close", 0)
        with pytest.raises(RankError, match="closed"):
            rank("put", "t", 0, "C")


# -- the contact file and the request ------------------------------------------------------------


def failed_request(rank, contact, blob):
    """The error of a request, which the blob carries to another rank as well."""
    with pytest.raises(RankError) as refused:
        rank("request", contact, blob)
    with pytest.raises(RankError) as joined:
        rank("join", blob)
    assert (joined.value.code, joined.value.text) == (refused.value.code, refused.value.text)
    return refused.value


def test_contact_files_that_cannot_be_trusted(start, sinks, tmp_path):
    rank = start(IPS_COMPONENTS_DEADLINE="0.05")
    blob = tmp_path / "blob"
    with coupling(tmp_path, sinks(), agree(spec_of())) as (contact, _):
        contact.chmod(0o640)
        assert "mode 0640, expected 0600" in failed_request(rank, contact, blob).text
        contact.chmod(0o600)
        text = contact.read_text()
        for damage, complaint in (
            (text.replace("ips-components-contact", "other"), "is not a contact file"),
            (text.replace('"version": 3', '"version": 1'), "another version"),
            (text.replace('"binary"', '"bin"'), "no binary record"),
            (text[:-40], "no binary record"),
            ('{"format": "ips-components-contact", "version": 3, "binary": "0102"}', "damaged"),
            ("", "is not a contact file"),
        ):
            contact.write_text(damage)
            error = failed_request(rank, contact, blob)
            assert (error.code, complaint in error.text) == (CONTACT, True), error
        link = tmp_path / "link.json"
        link.symlink_to(contact)
        assert failed_request(rank, link, blob).code == CONTACT
        assert "not a regular file" in failed_request(rank, tmp_path, blob).text
    error = failed_request(rank, tmp_path / "none.json", blob)
    assert (error.code, "have not started" in error.text) == (CONTACT, True)
    error = failed_request(rank, "-", blob)
    assert "IPS_COMPONENTS_CONTACT" in error.text


def test_contact_file_by_the_environment(start, sinks, tmp_path):
    with coupling(tmp_path, sinks(), agree(spec_of())) as (contact, _):
        rank = start(IPS_COMPONENTS_CONTACT=str(contact))
        join_all([rank], "-", tmp_path)
        rank("close", 0)


def test_contact_file_with_the_address_of_a_live_page(start, sinks, tmp_path):
    with coupling(tmp_path, sinks(), agree(spec_of())) as (contact, _):
        page = "http://127.0.0.1:36713/of-a-binary-token_0/"
        contacts.write(contact, replace(contacts.read(contact), live_page=page))
        rank = start()
        join_all([rank], contact, tmp_path)
        rank("close", 0)


def test_contract_that_does_not_come(start, sinks, tmp_path):
    with coupling(tmp_path, sinks(), deadlines={"contract": 0.2}) as (contact, _):
        error = failed_request(start(), contact, tmp_path / "blob")
        assert (error.code, "has not submitted its graph" in error.text) == (LATE, True)


def test_run_that_failed_before_there_was_a_contract(start, sinks, tmp_path):
    with coupling(tmp_path, sinks()) as (contact, (receiver,)):
        receiver.fault("no module named analysis")
        error = failed_request(start(), contact, tmp_path / "blob")
        assert (error.code, "no module named" in error.text) == (CONTRACT, True)


def test_nobody_listens(start, sinks, tmp_path):
    with coupling(tmp_path, sinks(), agree(spec_of()), deadlines={"connect": 0.3}) as (contact, _):
        kept = contact.read_bytes()
    contact.write_bytes(kept)
    error = failed_request(start(), contact, tmp_path / "blob")
    assert (error.code, "are the Dask workers running" in error.text) == (LATE, True)


def test_wrong_token(start, sinks, tmp_path):
    limits = {"connect": 0.3}
    with coupling(tmp_path, sinks(), agree(spec_of()), deadlines=limits) as (contact, _):
        known = contacts.read(contact)
        contacts.write(
            contact, contacts.Contact(known.run, contacts.new_token(), known.endpoints, limits)
        )
        error = failed_request(start(), contact, tmp_path / "blob")
        assert (error.code, "does not know the token of the run" in error.text) == (LATE, True)


CERTIFICATES = contacts.Certificates("/nowhere/ca", "/nowhere/certificate", "/nowhere/key")


@pytest.fixture
def encrypting(monkeypatch):
    """Contact files say that connections over TCP are encrypted."""
    original = contacts.write
    monkeypatch.setattr(
        contacts, "write", lambda path, one: original(path, replace(one, tls=CERTIFICATES))
    )


def test_encrypted_receivers_serve_ranks_of_their_node(start, sinks, tmp_path, encrypting):
    with coupling(tmp_path, sinks(), agree(spec_of())) as (contact, (receiver,)):
        first = start(0, 1)
        join_all([first], contact, tmp_path)
        assert receiver.statistics().lanes == {"shm": 1, "tcp": 0}
        first("close", 0)


def far(endpoint):
    return replace(endpoint, boot="another machine's")


@pytest.mark.parametrize("why", ["another node", "lane tcp"])
def test_encrypted_receiver_that_cannot_be_reached(start, sinks, tmp_path, encrypting, why):
    """A rank in C says at once what it cannot do, and what to do about it."""
    with coupling(tmp_path, sinks(), agree(spec_of())) as (contact, _):
        known = contacts.read(contact)
        if why == "another node":
            contacts.write(contact, replace(known, endpoints=tuple(map(far, known.endpoints))))
        rank = start(IPS_COMPONENTS_LANE="tcp" if why == "lane tcp" else "")
        error = failed_request(rank, contact, tmp_path / "blob")
        assert error.code == REFUSED
        for words in ("receiver 0 at 127.0.0.1", "TLS only", socket.gethostname(), "Dask worker"):
            assert words in error.text


def test_encrypted_receiver_of_another_node_is_named_by_the_first_put(
    start, sinks, tmp_path, encrypting
):
    spec, contract = spec_of(), agree(spec_of(), receivers=2)
    with coupling(tmp_path, sinks(2), contract) as (contact, made):
        here, there = (one.endpoint for one in made)
        made[0].set_contract(contract, (far(here), there))
        contacts.write(contact, replace(contacts.read(contact), endpoints=(far(here), there)))
        made[1].set_contract(contract, (far(here), there))
        (rank,) = offer_blocks(start, spec, (1, 1))
        join_all([rank], contact, tmp_path)
        with pytest.raises(RankError, match=r"receiver 0 at .* TLS only") as refused:
            rank("put", spec.name, 0, "C")
        assert refused.value.code == REFUSED


def test_simulation_of_another_size_is_refused(start, sinks, tmp_path):
    with coupling(tmp_path, sinks(), agree(spec_of())) as (contact, _):
        first = start(0, 1)
        join_all([first], contact, tmp_path)
        error = failed_request(start(0, 2), contact, tmp_path / "blob2")
        assert (error.code, "others said" in error.text) == (REFUSED, True)
        first("close", 0)


# -- news ---------------------------------------------------------------------------------------


def test_values_from_the_analysis(start, sinks, tmp_path):
    with coupling(tmp_path, sinks(), agree(spec_of())) as (contact, (receiver,)):
        ranks = [start(0, 2), start(1, 2)]
        receiver.feedback("gain", 0.5, 3)
        join_all(ranks, contact, tmp_path)
        rank = ranks[0]
        assert rank("receive", "gain", 3, 5) == "3 0 : 0.5"
        assert rank("receive", "gain", 7, 0) == "3 0 : 0.5"
        with pytest.raises(RankError) as refused:
            rank("receive", "gain", 2, 0)
        assert refused.value.code == NOTHING
        rank.tell("receive", "gain", 4, 10)
        receiver.feedback("gain", 0.25, 4)
        assert rank.answer() == "4 0 : 0.25"
        receiver.feedback("gain", 0.75, 4)
        receiver.feedback("grid", np.arange(6).reshape(2, 3), 0)
        assert rank("receive", "grid", 0, 5) == "0 1 2x3 : 0 1 2 3 4 5"
        assert rank("receive", "gain", 2**63 - 1, 5) == "4 0 : 0.75"
        receiver.feedback("mode", "fast", 1)
        receiver.feedback("more", {"a": [1, None]}, 1)
        assert rank("receive", "mode", 1, 5) == "1 2 : fast"
        assert rank("receive", "more", 1, 5) == '1 3 : {"a": [1, null]}'
        with pytest.raises(RankError, match="rank 0 only"):
            ranks[1]("receive", "gain", 3, 0)
        for step in range(5000):
            receiver.feedback("many", step, step)
        assert rank("receive", "many", 4999, 10) == "4999 1 : 4999"
        close_all(ranks)


def test_a_model_is_received_whole(start, sinks, tmp_path):
    def send(version, **arrays):
        for name, array in arrays.items():
            receiver.feedback(f"net/{name}", np.asarray(array), version)
        receiver.feedback("net", {"arrays": list(arrays)}, version)

    with coupling(tmp_path, sinks(), agree(spec_of())) as (contact, (receiver,)):
        rank = start()
        join_all([rank], contact, tmp_path)
        with pytest.raises(RankError) as refused:
            rank("model", "net", -1, 0)
        assert refused.value.code == NOTHING
        rank.tell("model", "net", -1, 10)
        send(1, w=[[0.5, 1], [2, 3]], b=[7, 8])
        assert rank.answer() == "1 w[2x2 0.5 1 2 3 b[2 7 8"
        with pytest.raises(RankError, match="no whole version of model net above 1") as refused:
            rank("model", "net", 1, 5)
        assert refused.value.code == NOTHING
        send(3, **{'größe\t"1"/𝜋': 0.25, "none": np.empty((0, 2))})
        receiver.feedback("last", 0, 0)
        rank("receive", "last", 0, 10)
        assert rank("model", "net", 1, 0) == '3 größe\t"1"/𝜋 0.25 none[0x2'
        receiver.feedback("net", {"arrays": ["w", "gone"]}, 4)  # not all of it is there
        receiver.feedback("odd", [1], 4)
        rank("receive", "odd", 4, 10)
        for name in ("net", "odd"):
            with pytest.raises(RankError) as refused:
                rank("model", name, 3, 0)
            assert refused.value.code == NOTHING
        close_all([rank])


@pytest.mark.parametrize("how", ["stop", "return", "fault", "abort", "gone"])
def test_receive_ends_at_once_when_nothing_can_come(start, sinks, tmp_path, how):
    limits = {"connect": 0.3}
    with coupling(tmp_path, sinks(), agree(spec_of()), deadlines=limits) as (contact, (receiver,)):
        rank = start(0, 1)
        join_all([rank], contact, tmp_path)
        receiver.feedback("gain", 0.5, 3)
        rank.tell("receive", "gain", 3, 5)
        assert rank.answer() == "3 0 : 0.5"
        rank.tell("receive", "gain", 4, 60)
        if how == "stop":
            receiver.stop("converged")
        elif how == "return":
            receiver.feedback("", "", 0)
        elif how == "gone":
            receiver.close()
        else:
            receiver.fault("KeyError: 'x'", "abort" if how == "abort" else "continue")
        with pytest.raises(RankError) as ended:
            rank.answer(5)
        assert ended.value.code == (STOPPED if how in ("stop", "return") else LOST)
        why = {
            "stop": "has stopped the run",
            "return": "has all its results",
            "gone": "no receiver is left",
        }
        assert why.get(how, "KeyError: 'x'") in ended.value.text
        assert rank("receive", "gain", 3, 5) == "3 0 : 0.5"  # what was sent before is there
        if how in ("stop", "return", "fault"):
            assert rank("receive", "gain", 9, 0) == "3 0 : 0.5"
        rank("close", 0 if how in ("stop", "return") else 1)


def test_stop(start, sinks, tmp_path):
    spec = spec_of()
    (sink,) = sinks()
    with coupling(tmp_path, [sink], agree(spec), budget=2000) as (contact, (receiver,)):
        (rank,) = offer_blocks(start, spec, (1, 1))
        join_all([rank], contact, tmp_path)
        assert rank("stop") == "0"
        rank("put", "t", 0, "C")
        sink.wait(lambda: sink.counts)  # it holds the only chunk for which there is room
        rank("put", "t", 1, "C")
        receiver.stop("converged")
        rank("put", "t", 2, "C")  # does not wait for credit that no receiver will give
        assert rank("stop") == "1"
        rank("close", 0)
        assert rank.account("t")[0][3:] == [0, 0]
        assert sink.byes[0].counters[0].closed


@pytest.mark.parametrize("policy", ["continue", "abort"])
def test_fault(start, sinks, tmp_path, policy):
    spec = spec_of()
    (sink,) = sinks()
    with coupling(tmp_path, [sink], agree(spec)) as (contact, (receiver,)):
        (rank,) = offer_blocks(start, spec, (1, 1))
        join_all([rank], contact, tmp_path)
        rank("put", "t", 0, "C")
        receiver.fault("KeyError: 'x'", policy)
        sink.wait(lambda: sink.counts)
        if policy == "abort":
            with pytest.raises(RankError, match="the run failed: KeyError: 'x'"):
                for _ in range(100):
                    rank("put", "t", 1, "C")
        else:
            while rank("lost") != "KeyError: 'x'":
                rank("progress")
            rank("put", "t", 1, "C")
        blocks, _ = rank.account("t")
        assert (blocks[4] >= 1, blocks[0]) == (True, sum(blocks[1:]))
        rank("close", 1, "told to end")
        sink.wait(lambda: sink.byes)
        assert (sink.byes[0].status, sink.byes[0].reason) == ("aborted", "told to end")


# -- flow control ---------------------------------------------------------------------------------


@pytest.mark.parametrize("lane", LANES)
def test_slow_analysis_of_a_fast_simulation_in_bounded_memory(start, sinks, tmp_path, lane):
    spec = spec_of(shape=(64, 64), count=40)
    (sink,) = sinks()
    size = 64 * 64 * 8
    with coupling(tmp_path, [sink], agree(spec), budget=3 * size) as (contact, (receiver,)):
        (rank,) = offer_blocks(start, spec, (1, 1), None, lane)
        join_all([rank], contact, tmp_path)
        for step in range(40):
            rank.tell("put", "t", step, "C")
        taken = 0
        while taken < 40:
            sink.wait(lambda: sink.chunks)
            with sink.changed:
                assert receiver.statistics().held + receiver.statistics().reserved <= 3 * size
                assert len(sink.chunks) <= 3
                taken += len(sink.chunks)
                sink.chunks.clear()
        for _ in range(40):
            rank.answer()
        rank("close", 0)
        assert sink.byes[0].counters[0].blocks == (40, 0, 40, 0, 0)


def test_full_receiver_with_policy_drop(start, sinks, tmp_path):
    spec = spec_of(count=10)
    (sink,) = sinks()
    contract = agree(spec, policy="drop")
    with coupling(tmp_path, [sink], contract, budget=2 * 768) as (contact, _):
        (rank,) = offer_blocks(start, spec, (1, 1))
        join_all([rank], contact, tmp_path)
        run_steps([rank], spec)
        counters = sink.byes[0].counters[0]
        assert counters.closed
        assert counters.blocks[3] >= 7
        sink.wait(lambda: len(sink.missed) == counters.blocks[3])
        assert len(sink.chunks) == counters.blocks[2]


def test_credit_that_never_comes(start, sinks, tmp_path):
    spec = spec_of()
    (sink,) = sinks()
    limits = {"step": 0.3}
    with coupling(tmp_path, [sink], agree(spec), budget=768, deadlines=limits) as (contact, _):
        (rank,) = offer_blocks(start, spec, (1, 1))
        join_all([rank], contact, tmp_path)
        with pytest.raises(RankError, match=r"gave no credit within 0\.3 s") as refused:
            for step in range(3):
                rank("put", "t", step, "C")
        assert refused.value.code == LATE
        rank("close", 0)
        counters = sink.byes[0].counters[0]
        assert (counters.closed, counters.blocks[4]) == (True, 1)


def test_chunks_that_are_kept_do_not_starve_the_rank(start, sinks, tmp_path):
    spec = spec_of(count=30)
    (sink,) = sinks()  # keeps every chunk
    with coupling(tmp_path, [sink], agree(spec)) as (contact, _):
        (rank,) = offer_blocks(start, spec, (1, 1), None, "shm")
        join_all([rank], contact, tmp_path)
        run_steps([rank], spec)
        assert len(sink.chunks) == 30


def test_puts_that_nobody_wants_show_that_the_rank_goes_on(start, sinks, tmp_path):
    spec = spec_of(count=1_000_000)
    (sink,) = sinks()
    contract = agree(spec, selections=[Selection.from_key(np.s_[:1], (10**6, 8, 12))])
    with coupling(tmp_path, [sink], contract) as (contact, _):
        (rank,) = offer_blocks(start, spec, (1, 1))
        join_all([rank], contact, tmp_path)
        rank("put", "t", 0, "C")
        step, deadline = 0, time.monotonic() + 30
        while len(sink.steps) < 2 and time.monotonic() < deadline:
            step += 1
            rank("put", "t", step, "C")
        assert sink.steps[0][1].step == 0
        assert 0 < sink.steps[1][1].step - StepEnd.NO_STEP <= step
        assert sink.steps[1][1].counters[0].blocks[2] == 1
        rank("close", 0)


def test_step_ends_travel(start, sinks, tmp_path):
    spec = spec_of(count=4)
    (sink,) = sinks()
    contract = agree(spec, selections=[Selection.from_key(np.s_[::2], (4, 8, 12))])
    with coupling(tmp_path, [sink], contract) as (contact, _):
        (rank,) = offer_blocks(start, spec, (1, 1))
        join_all([rank], contact, tmp_path)
        for step in range(4):
            rank("put", "t", step, "C")
            if step == 1:
                rank("step_end", step)
        rank("close", 0)
        assert [info.step for _, info in sink.steps] == [0, 2] or [
            info.step for _, info in sink.steps
        ] == [0, 1, 2]
        assert sink.steps[-1][1].counters[0].blocks == (4, 2, 2, 0, 0)


def test_physical_times_travel_once_for_each_step_that_somebody_wants(start, sinks, tmp_path):
    spec = spec_of(count=4)
    (sink,) = sinks()
    contract = agree(spec, selections=[Selection.from_key(np.s_[::2], (4, 8, 12))])
    with coupling(tmp_path, [sink], contract) as (contact, _):
        (rank,) = offer_blocks(start, spec, (1, 1))
        join_all([rank], contact, tmp_path)
        for step in range(4):
            rank("step_time", step, 0.1 * step)
            rank("step_time", step, 0.1 * step)
            rank("put", "t", step, "C")
        with pytest.raises(RankError, match="must be finite"):
            rank("step_time", 3, "inf")
        rank("close", 0)
        assert sink.times == [(0, 0, 0.0), (0, 2, 0.2)]
