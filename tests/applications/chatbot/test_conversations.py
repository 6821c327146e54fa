"""Reading logs: turns come back in order whatever order the file has, and bad rows are named by file and line."""

import collections
import csv
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from applications.chatbot.conversations import Log, find_customers
from applications.chatbot.data import DataError

HEADER = "conversation_id,speaker,timestamp,text\n"
TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"], include_characters="\n"), min_size=1)
FILLED = TEXT.map(str.strip).filter(bool)
TURNS = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from(["customer", "agent"]), st.integers(0, 2_000_000_000), FILLED),
    min_size=1,
    unique_by=lambda turn: turn[2],
)


def read(path, content, **options):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return Log(path, **options)


def texts(log, sides=None):
    sides = sides or find_customers(log.roles())
    return {name: [turn.text for turn in turns] for name, turns, _ in log.conversations(sides)}


@settings(max_examples=50, deadline=None)
@given(TURNS, st.sampled_from([",", ";", "\t", "json"]))
def test_turns_are_read_in_the_order_of_time_from_csv_and_json_lines(tmp_path_factory, turns, form):
    path = tmp_path_factory.mktemp("log") / ("log.jsonl" if form == "json" else "log.csv")
    names = ["Conversation ID", "Speaker", "created-at", "message"]
    with path.open("w", encoding="utf-8", newline="") as file:
        if form == "json":
            file.writelines(json.dumps(dict(zip(names, turn, strict=True))) + "\n" for turn in turns)
        else:
            csv.writer(file, delimiter=form).writerows([names, *turns])
    expected = collections.defaultdict(list)
    for name, side, time, text in sorted(turns, key=lambda turn: turn[2]):
        expected[name].append((side == "customer", time, text))
    log = Log(path)
    found = log.conversations({"customer": True, "agent": False})
    assert {name: [(turn.is_customer, turn.time, turn.text) for turn in said] for name, said, _ in found} == expected
    assert len(log) == len(turns)


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("2024-01-01T00:00:00Z", 1704067200),
        ("2024-01-01T01:00:00+01:00", 1704067200),
        ("2024-01-01 00:00:00", 1704067200),
        ("2024/1/1 00:00", 1704067200),
        ("Mon Jan 01 00:00:00 +0000 2024", 1704067200),
        ("1704067200.5", 1704067200.5),
        ("1704067200000", 1704067200),
    ],
)
def test_times_are_read_in_the_forms_that_logs_have(written, seconds, tmp_path):
    log = read(tmp_path / "log.csv", HEADER + f"1,customer,{written},Hi\n")
    ((_, (turn,), _),) = log.conversations({"customer": True})
    assert turn.time == seconds


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("log.csv", b"", "log.csv is empty"),
        ("log.csv", b"\n\n", "log.csv is empty"),
        ("log.jsonl", b"\n", "log.jsonl is empty"),
        ("log.csv", HEADER, "holds no turns"),
        ("log.csv", "speaker,time,text\n", "line 1: no column for the conversation, such as .*--conversation_column"),
        ("log.csv", "thread,time,text\n", "line 1: no column for the speaker.*It has: thread, time, text"),
        ("log.csv", "thread,speaker,text\n", "no column for the time"),
        ("log.csv", "thread,speaker,time\n", "no column for the text"),
        ("log.csv", HEADER + "1,a,yesterday,Hi\n", "line 2: timestamp is neither ISO 8601 nor .*: 'yesterday'"),
        ("log.csv", HEADER + "1,a,-5,Hi\n", "line 2: timestamp is no time: '-5'"),
        ("log.csv", HEADER + "1,a,nan,Hi\n", "line 2: timestamp is no time: 'nan'"),
        (
            "log.csv",
            HEADER + "1,a,,Hi\n1,,5,Hi\n,a,5,Hi\n",
            "2: no timestamp.\n.*3: no speaker.\n.*4: no conversation_id",
        ),
        ("log.csv", HEADER + '1,a,5,"Two\nlines"\n1,a,5\n', "line 4: 3 fields where the header has 4"),
        ("log.csv", HEADER + '1,a,5,"Hi\n', "line 2: unexpected end of data"),
        ("log.csv", HEADER.encode() + b"1,a,5,Gr\xfc\xdfe\n", "line 2: text is not UTF-8"),
        ("log.jsonl", '{"thread": 1, "speaker": "a", "time": 5, "text": "Hi"}\n{"thread"\n', "line 2: not JSON"),
        ("log.jsonl", "[1]\n", "line 1: not a JSON object"),
        ("log.jsonl", '{"thread": 1, "speaker": "a", "time": true, "text": "Hi"}\n', "line 1: time is no time: True"),
        ("log.jsonl", '{"thread": 1, "speaker": "a", "time": 5, "text": 7}\n', "line 1: text is not a text: 7"),
        ("log.jsonl", '{"thread": 1, "speaker": "a", "time": 5, "text": "\\ud800"}\n', "line 1: text is not UTF-8"),
    ],
)
def test_a_log_with_faults_is_refused_with_its_name_and_the_lines(name, content, message, tmp_path):
    with pytest.raises(DataError, match=f"(?s){message}") as error:
        read(tmp_path / name, content)
    assert str(tmp_path / name) in str(error.value)


def test_malformed_rows_are_left_out_on_demand_and_counted(tmp_path):
    content = HEADER + "1,a,x,Hi\n" * 12 + "1,a,5,Hello\n1,a,6,\n"
    with pytest.raises(DataError, match=r"(?s)line 11: .*\.\.\. and 2 more\.\n.*--skip_malformed"):
        read(tmp_path / "log.csv", content)
    log = read(tmp_path / "log.csv", content, skip_malformed=True)
    assert (len(log), log.malformed, len(log.problems), log.empty) == (1, 12, 10, 1)


def test_columns_can_be_named(tmp_path):
    content = "a,b,c,d\n1,customer,5,Hi\n"
    columns = {"conversation": "a", "speaker": "b", "time": "c", "text": "d"}
    assert texts(read(tmp_path / "log.csv", content, columns=columns), {"customer": True}) == {"1": ["Hi"]}
    with pytest.raises(DataError, match=r"line 1: no column 'e'\. It has: a, b, c, d"):
        read(tmp_path / "log.csv", content, columns={**columns, "text": "e"})


def test_a_log_of_replies_becomes_conversations(tmp_path):
    log = read(
        tmp_path / "twcs.csv",
        "tweet_id,author_id,inbound,created_at,text,response_tweet_id,in_response_to_tweet_id\n"
        "3,115712,True,Tue Oct 31 22:11:45 +0000 2017,third,,2\n"
        "2,SomeShop,False,Tue Oct 31 22:10:47 +0000 2017,second,3,1\n"
        "1,115712,True,Tue Oct 31 22:08:27 +0000 2017,first,2,\n"
        "8,SomeShop,False,Tue Oct 31 22:08:27 +0000 2017,reply to one that is missing,,7\n"
        "9,115713,True,Tue Oct 31 22:08:28 +0000 2017,and another,,7\n"
        "12,115713,True,Tue Oct 31 22:08:30 +0000 2017,to a ring,,10\n"
        "10,115713,True,Tue Oct 31 22:08:28 +0000 2017,in a ring,,11\n"
        "11,115713,True,Tue Oct 31 22:08:29 +0000 2017,of replies,,10\n",
    )
    assert sorted(texts(log).values()) == [
        ["first", "second", "third"],
        ["in a ring", "of replies", "to a ring"],
        ["reply to one that is missing", "and another"],
    ]
    assert all(
        people in ((), ("115712",), ("115713",)) for *_, people in log.conversations(find_customers(log.roles()))
    )


def test_people_are_those_who_have_names(tmp_path):
    rows = "1,Ann Lee,customer,5,Hi\n1,Bob,agent,6,Hello\n2,visitor,customer,5,Hi\n2,bot,agent,6,Hello\n"
    log = read(tmp_path / "log.csv", "thread,speaker,role,time,text\n" + rows)
    assert [people for *_, people in log.conversations(find_customers(log.roles()))] == [("Ann Lee", "Bob"), ()]


@pytest.mark.parametrize(
    ("values", "options", "sides"),
    [
        (["customer", "Agent"], {}, {"customer": True, "Agent": False}),
        (["user", "Bob", "Ann"], {}, {"user": True, "Bob": False, "Ann": False}),
        (["support", "Bob"], {}, {"support": False, "Bob": True}),
        (["客户", "客服", "系统"], {}, {"客户": True, "客服": False, "系统": None}),
        (["True", "false"], {}, {"True": True, "false": False}),
        (["Ann", "Bob", "Eve"], {"customers": ("ann",)}, {"Ann": True, "Bob": False, "Eve": False}),
        (["Ann", "Bob", "Eve"], {"agents": ("Bob",)}, {"Ann": True, "Bob": False, "Eve": True}),
        (["agent", "Bob"], {"customers": ("agent",)}, {"agent": True, "Bob": False}),
    ],
)
def test_customers_are_told_from_agents(values, options, sides):
    assert find_customers(collections.Counter(values), **options) == sides


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        (
            ["Ann", "Bob", "Bob"],
            {},
            r"cannot tell .* 'role' holds, .*: Bob \(2\), Ann \(1\)\. .*--customers or --agents",
        ),
        (["customer", "agent", "Eve"], {}, r"cannot tell .*Eve \(1\)"),
        (["customer"], {}, "cannot tell"),
        (["Ann", "Bob"], {"customers": ("Eve",)}, r"no turn is by 'eve'\. .*Ann \(1\), Bob \(1\)"),
        (["Ann", "Bob"], {"customers": ("Ann",), "agents": ("Ann",)}, "'ann' is given as a customer and as an agent"),
        ([f"s{n}" for n in range(30)], {}, r"and 20 more\."),
    ],
)
def test_speakers_that_cannot_be_told_apart_are_listed(values, options, message):
    with pytest.raises(DataError, match=message):
        find_customers(collections.Counter(values), **options)
