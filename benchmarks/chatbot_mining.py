"""How long mining takes, how much memory, and whether it finds what was put into a log: synthetic conversations.

    python -m benchmarks.chatbot_mining --turns 200000

The log is written for this benchmark, its rows in no order: 450 questions (15 things to do to 30 things that a customer
has, each in one of three wordings, with a typing error in every fifth turn) in conversations with greetings, "one
moment", card numbers and names. A question has one right answer, which 70 of 100 get, some with a greeting around it,
and three wrong ones. In half of the conversations the customer asks twice. Prints what mining prints, a row of time and
memory, and how many of the 450 came back in their own words, and with their right answer.
"""

import argparse
import csv
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from applications.chatbot.data import read_entries

_DO = "change,cancel,renew,pause,extend,return,repair,insure,upgrade,transfer,register,print,share,export,refund"
_THING = (
    "gym membership,credit card,phone contract,hotel booking,train ticket,gift voucher,car rental,travel insurance,"
    "e-mail address,home delivery,flight seat,coffee machine,garden sprinkler,mobile plan,newspaper subscription,"
    "savings account,direct debit,library pass,concert reservation,washing machine,language course,tax report,"
    "bicycle lock,electric scooter,parking permit,dental appointment,moving van,photo album,cloud backup,"
    "swimming lesson"
)
_WORDINGS = ("How do I {} my {}?", "I would like to {} my {}, what must I do?", "What does it cost to {} a {}?")
_RIGHT = "To {} your {}, open page {} of your account and follow the three steps there."
_WRONG = ("Please write a letter about your {1} to our head office in town.", "We no longer {0} any {1} in this shop.")
_WRONG += ("A colleague of the night shift will {0} the {1} for you tomorrow.",)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=200_000)
    turns = parser.parse_args().turns
    draw = random.Random(0)
    topics = [(do, thing) for do in _DO.split(",") for thing in _THING.split(",")]
    asked = [(wording.format(*topic), topic) for topic in topics for wording in draw.sample(_WORDINGS, 1)]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log.csv"
        written = _write_log(log, asked, turns, draw)
        pairs = Path(folder) / "pairs.csv"
        command = [sys.executable, "-m", "applications.chatbot", "mine", "--data", str(log), "--output", str(pairs)]
        start = time.perf_counter()
        subprocess.run(command, check=True)
        seconds = time.perf_counter() - start
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        entries = read_entries(pairs)
        size = log.stat().st_size
    found = {entry.question: entry.answer for entry in entries}
    there = [question for question, _ in asked if question in found]
    right = [topic for question, topic in asked if _right(topic) == found.get(question)]
    print("\n    turns      MB       s   CPU s   peak MB  questions found  answered right")
    print(
        f"{written:9,}  {size / 1e6:6.1f}  {seconds:6.1f}  {used.ru_utime + used.ru_stime:6.1f}  "
        f"{used.ru_maxrss / 1024:8.0f}  "
        f"{len(there):8} of {len(asked)}  {len(right):7} of {len(asked)}"
    )


def _right(topic):
    return _RIGHT.format(*topic, sum(map(ord, "".join(topic))))


def _mistype(text, draw):
    place = draw.randrange(4, len(text) - 2)
    return text[:place] + text[place + 1] + text[place] + text[place + 2 :]


def _write_log(path, asked, turns, draw):
    rows, number = [], 0
    while len(rows) < turns:
        number += 1
        moment = 1_700_000_000 + number * 60
        customer, agent = draw.choice(["Ann Lee", "Bob Ray", "Eve Hill"]), draw.choice(["Tom Fox", "Sue Park"])
        said = [("customer", "Hi there!"), ("agent", f"Hello {customer}, how can I help you?")]
        for _ in range(draw.choice([1, 2])):
            question, topic = draw.choice(asked)
            question = _mistype(question, draw) if draw.random() < 0.2 else question
            answer = _right(topic) if draw.random() < 0.7 else draw.choice(_WRONG).format(*topic)
            if draw.random() < 0.3:
                answer = f"Dear {customer}, thank you for your message. {answer} Best regards, {agent}"
            said.append(("customer", question))
            if draw.random() < 0.3:
                said.append(("agent", "One moment please, let me check."))
            said.append(("agent", answer))
            if draw.random() < 0.1:
                said += [
                    ("customer", "Is it on card 4111 1111 1111 1111?"),
                    ("agent", f"Call (650) 253-0{number % 900:03}."),
                ]
        said.append(("customer", "Thank you very much"))
        for second, (role, text) in enumerate(said):
            rows.append((f"c{number}", {"customer": customer, "agent": agent}[role], role, moment + second, text))
    draw.shuffle(rows)  # a log need not be in order
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["conversation_id", "speaker", "role", "created_at", "text"])
        writer.writerows(rows)
    return len(rows)


if __name__ == "__main__":
    main()
