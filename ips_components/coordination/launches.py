"""The launches of a run: a simulation whose program is started many times, for one graph.

A bridge that closes ends a launch. The simulation ends when the workflow says so
(``end_simulation``). Without launches in its settings a run has one, which ends the simulation.
"""

from __future__ import annotations

from ips_components.coordination.coordinated_run import CoordinatedRun
from ips_components.coordination.launch_record import LaunchRecord
from ips_components.errors import ContractError
from ips_components.model.step_times import StepTimes, of_launches


def is_under_way(run: CoordinatedRun) -> bool:
    """Whether the program of the newest launch has not ended."""
    return bool(run.launches) and run.launches[-1].ok is None


def join(run: CoordinatedRun, size: int, group: str) -> LaunchRecord | None:
    """Return the launch whose rank another task of a group is; None if it is a launch of its own.

    Tasks of one group that all say they are one of as many ranks are the ranks of one program.
    """
    if not (group and is_under_way(run)):
        return None
    record = run.launches[-1]
    if record.group != group or record.size != size or record.members >= size:
        return None
    record.members += 1
    return record


def leave(run: CoordinatedRun, launch: int, group: str, ok: bool) -> bool:
    """Note that one task of a launch has ended; return whether the launch has ended by that."""
    record = run.launches[-1] if run.launches else None
    if record is None or record.number != launch or record.group != group or record.ok is not None:
        return False  # another task of the launch has failed before
    record.left += 1
    return not ok or record.left == record.size


def forget(run: CoordinatedRun) -> None:
    """Forget the newest launch: its program has opened no bridge, and was no part of the run."""
    run.launches.pop()
    run.state.n_ranks = 0
    run.idle = True


def begin(run: CoordinatedRun, size: int, group: str = "") -> LaunchRecord:
    """Begin a launch of `size` ranks; the ranks of the one before are not expected any more.

    Raises
    ------
    ContractError
        When the run has ended, or cannot take ranks of another number.
    """
    state = run.state
    if state.phase == "ended" or (state.fatal is not None and not goes_on(run)):
        why = "has ended" if state.fatal is None else f"has failed: {state.fatal.cause}"
        raise ContractError(f"run {state.run} {why}; nothing can be launched any more")
    before = run.launches[-1] if run.launches else None
    if before is not None and before.ok is None:
        raise ContractError(
            f"run {state.run}: launch {before.number} is still under way; a simulation is "
            "launched again only when its program has ended"
        )
    settings = run.settings.get("launches", {})
    if before is None:
        number, first = int(settings.get("first_launch", 0)), int(settings.get("first_step", 0))
    elif before.ok:
        number, first = before.number + 1, next_step(run)
    else:  # the same again: what had been delivered stays
        number, first = before.number, before.first_step
    return expect(run, LaunchRecord(number, first, size, state.clock(), group))


def expect(run: CoordinatedRun, record: LaunchRecord) -> LaunchRecord:
    """Expect the ranks of a launch, and none of the one before.

    Raises
    ------
    ContractError
        When the run cannot take ranks of another number.
    """
    before = run.launches[-1] if run.launches else None
    if run.contract is not None and before is not None and before.size != record.size:
        rows = [a.spec for a in run.contract.arrays if a.spec.ragged or a.spec.ids]
        if rows:
            kind = "ragged" if rows[0].ragged else "indexed by ids"
            raise ContractError(
                f"array {rows[0].name!r} is {kind}: every launch must have as many ranks as the "
                f"first, {before.size}, got {record.size}"
            )
    run.launches.append(record)
    run.state.begin_launch(record.size)
    run.begun.clear()
    run.blocks.clear()
    run.flushing.clear()
    run.flushed = run.idle = False
    return record


def goes_on(run: CoordinatedRun) -> bool:
    """Whether the simulation goes on alone, since only the analysis has failed."""
    fatal = run.state.fatal
    continues = run.settings.get("on_analytics_loss") == "continue"
    return (
        continues
        and fatal is not None
        and fatal.who not in ("simulation",)
        and not (fatal.who.startswith("rank"))
    )


def is_alone(run: CoordinatedRun) -> bool:
    """Whether ranks go on alone; clients can attach to them."""
    ranks = run.state.n_ranks is not None and not run.state.simulation_over
    return goes_on(run) and (ranks or run.between_launches)


def ending(run: CoordinatedRun) -> str:
    """Return where the simulation has ended, for errors of what needs later steps."""
    said = run.state.ending(run.settings.get("n_steps"))
    if not (run.launches and run.closed):
        return said
    return (
        f"{said}, in launch {run.launches[-1].number}, and was then finalized; launch it for every "
        "time of the loop, or, if it may end earlier, say AT_MOST = True for its arrays"
    )


def has_closed(run: CoordinatedRun) -> bool:
    """Whether all ranks of the newest launch have closed their bridges, or none can say so.

    After a failure of the analysis alone, too: what they say last is where the next launch begins.
    """
    state = run.state
    if not run.over:
        return run.idle or not state.ranks
    gone = state.byes.keys() | state.lost_ranks.keys()
    return not (goes_on(run) and run.workers and state.ranks.keys() - gone)


def next_step(run: CoordinatedRun) -> int:
    """Return the step at which the next launch goes on."""
    settings = run.settings.get("launches", {})
    per_launch, first = settings.get("steps"), int(settings.get("first_step", 0))
    done = [launch for launch in run.launches if launch.ok]
    if per_launch is not None:
        return first + len(done) * int(per_launch)
    last = [launch.last_step for launch in done if launch.last_step is not None]
    return max(last, default=first - 1) + 1


def times(run: CoordinatedRun) -> StepTimes:
    """Return what is known of the physical times of the steps that have come."""
    launches = run.settings.get("launches", {})
    if not launches:
        known = StepTimes.from_plain(run.settings.get("times", {}))
        return StepTimes({**known.put, **run.state.times}, known.spans)
    per_launch = launches.get("steps")
    done = []
    for each in run.launches:
        last = each.last_step if per_launch is None else each.first_step + per_launch - 1
        if each.ok is not False and each.time is not None and last is not None:
            done.append((each.first_step, last, each.time))
    return of_launches(done, launches.get("begin"), run.state.times)


def position(run: CoordinatedRun) -> dict[str, int]:
    """Return what a run must be given to go on from where this one is.

    Raises
    ------
    ContractError
        While a launch is under way, or after one that failed.
    """
    settings = run.settings.get("launches", {})
    for launch in run.launches[-1:]:
        if not launch.ok:
            what = "is under way" if launch.ok is None else "has failed"
            raise ContractError(
                f"launch {launch.number} {what}; a checkpoint is taken between launches"
            )
    done = sum(bool(launch.ok) for launch in run.launches)
    return {
        "first_step": next_step(run),
        "first_launch": int(settings.get("first_launch", 0)) + done,
        "published": int(settings.get("published", 0)) + run.published.taken,
    }


def end(run: CoordinatedRun, launch: int, ok: bool) -> str:
    """End a launch; return what is wrong with it, "" if nothing is."""
    record = run.launches[-1]
    if record.number != launch or record.ok is not None:
        raise ContractError(f"run {run.state.run}: launch {launch} is not under way")
    state = run.state
    record.ended, record.last_step = state.clock(), state.last_put
    settings = run.settings.get("launches", {})
    per_launch, wrong = settings.get("steps"), ""
    missing = [rank for rank in range(record.size) if rank not in state.byes]
    if ok and not state.ranks:
        wrong = f"launch {launch} ended without a word: does its program open a bridge?"
    elif ok and missing:
        wrong = (
            f"launch {launch} ended well, but rank {missing[0]} and {len(missing) - 1} others of "
            f"{record.size} did not close their bridges"
        )
    elif ok and per_launch is not None and record.last_step != record.first_step + per_launch - 1:
        wrong = (
            f"launch {launch} began at step {record.first_step} and ended at step "
            f"{record.last_step}, expected {record.first_step + per_launch - 1} "
            f"(STEPS_PER_LAUNCH = {per_launch})"
        )
    if not ok:
        for rank in missing:
            state.rank_lost(rank, f"launch {launch} failed")
    if state.phase == "failed" or state.left_out is not None:
        wrong = ""  # it has a cause already
    record.ok = ok and not wrong
    record.accounts = state.launch_accounts()
    return wrong
