"""A run that began again three times: copied beside its store as ``app.py``, as ``program`` is."""

import everstep as es

month = es.state("month", int)
go_on = es.signal("go-on", bool)


@es.step
async def bill(number: int) -> int:
    return number * 999


@es.workflow
async def subscription(number: int) -> int:
    month.set(number)
    await bill(number)
    if number < 4:
        es.continue_as_new(subscription(number + 1))
    await go_on.wait()
    return number
