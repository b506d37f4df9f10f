"""An answer in words is read as a careful human would read it, and where such a one would hesitate it is not read."""

from itertools import product

import numpy as np
import pytest

from personalib.questionnaires.extraction import chosen_option

LETTERS, NUMBERS = ("A", "B", "C", "D"), ("1", "2", "3", "4")
OPTIONS = ("Run away.", "Wait for help.", "Call the teacher.", "Shout at them.")


def each(text):
    """Answers one beside the other; ``/`` stands for a line break within one."""
    return [answer.replace("/", "\n") for answer in text.strip().replace("\n", "|").split("|")]


@pytest.mark.parametrize(
    "answer",
    each("""
B| B/|(B)|[B]|"B"|<B>|B.|B!|B, since it is safe.|B: wait|B) Wait|B) Wait for help.|B. Wait for help.
**B**|**B.** Wait for help.|**(B)** Wait for help.|B//A would be dangerous.
//B/Explanation: A is dangerous, and so is C.|The answer is B|The answer is B.|The answer is (B) Wait for help.
The answer is **B**.|The answer: B|The correct answer is: B|The answer is B because A is wrong
the best option would be B|I think that option B fits best.|I choose B|I choose (B).|I choose option B.
My choice: B|I would answer B, not A.|Wait for help.|wait for help|WAIT FOR HELP!|I would wait for help.
You should/wait for  help, I believe.|**Wait for help.**|B - Wait for help.
Answer: B|Answer: (B)|**Answer: B**|Answer is B.|ANSWER: B|Option B.|Option B|Option B: Wait for help.
Choice B|Letter: B|Choose B.
"""),
)
def test_an_answer_that_names_one_option_is_read(answer):
    assert chosen_option(answer, LETTERS, OPTIONS) == 1


UNREAD = {
    "none": "|  /|...|A good idea|A good choice would be to leave.|A friend told me to leave.|I do not know.|away|help|"
    "I would choose the second|choose wisely|the option is a good one|I want to choose a friend|Beware of the dog",
    "another label": "E|E.|The answer is E.",
    "several": "Both A and B|A and B|A or B|A B C D|Neither A nor B|The answer is A. No, the answer is B.|"
    "option A or option B|I would run away or wait for help.|Run away. Wait for help. Call the teacher. Shout at them.",
    "a list": "A, B|A, B, and C|A. or B.|A) and B)|(A), (C)|A. Run away./B. Wait for help./C. Call the teacher.",
    "a label turned down": "It is not A|The answer is not A.|I would not choose A.|I don't think the answer is A.|"
    "I do not think that the answer is A|I would never choose A|I don't think option A is right.|I can't choose A.",
    "a text turned down": "Do not run away.|I would never shout at them.|You shouldn't run away!|Don't wait for help",
    "small letters, which may be words": "b|(b)|the answer is b|a|a.",
}


@pytest.mark.parametrize("answer", ["A/B", *(answer for answers in UNREAD.values() for answer in each(answers))])
def test_an_answer_that_names_no_option_or_several_is_not_read(answer):
    assert chosen_option(answer, LETTERS, OPTIONS) is None


@pytest.mark.parametrize(
    ("answer", "place"),
    [("Do not run.", 0), ("I would say: do not run!", 0), ("Never. Run away.", 1), ("B. Do not run.", 1)],
)
def test_an_option_may_itself_turn_something_down(answer, place):
    assert chosen_option(answer, LETTERS, ("Do not run.", "Run away.")) == place


@pytest.mark.parametrize("answer", each("2|(2)|2.|2) Wait|option 2|number 2|The answer is 2.|**2**"))
def test_digits_are_labels_too(answer):
    assert chosen_option(answer, NUMBERS, OPTIONS) == 1


LONGER = "10|12|10.|The answer is 10|option 12|1st|3 of 4|2nd|0"
DECIMALS = "1.5|2.5 years|1,000 people|The answer is 1.5|the answer is 3,000|1:30"


@pytest.mark.parametrize("answer", each(f"{LONGER}|{DECIMALS}"))
def test_a_longer_number_is_not_its_first_digit(answer):
    assert chosen_option(answer, NUMBERS, OPTIONS) is None


@pytest.mark.parametrize(("answer", "place"), [("Tell a teacher.", 1), ("I would tell a teacher", 1), ("Tell", None)])
def test_an_option_that_is_part_of_another_does_not_count_beside_it(answer, place):
    options = ("A teacher.", "Tell a teacher.", "Tell a teacher and leave.")
    assert chosen_option(answer, LETTERS, options) == place


def test_the_shorter_of_two_options_is_read_where_it_stands_alone():
    assert chosen_option("tell", LETTERS, ("Tell.", "Tell a teacher.")) == 0


@pytest.mark.parametrize(
    ("answer", "options"),
    [
        ("By comparison it is small.", ("Paris", "Rome")),
        ("It is in Romeo's house.", ("Paris", "Rome")),
        ("I know nothing.", ("No", "Yes")),
        ("That is unsafe.", ("Safe", "Risky")),
    ],
)
def test_an_option_within_a_longer_word_is_not_quoted(answer, options):
    assert chosen_option(answer, LETTERS, options) is None


@pytest.mark.parametrize("option", ["...", "?!", "  "])
def test_an_option_of_marks_alone_is_not_in_every_answer(option):
    assert chosen_option("Hm.", LETTERS, (option, "Run away.")) is None


def test_options_that_read_alike_are_not_told_apart():
    assert chosen_option("yes", LETTERS, ("Yes", "yes.")) is None
    assert chosen_option("B", LETTERS, ("Yes", "yes.")) == 1


def test_a_label_decides_before_a_text():
    assert chosen_option("B. Run away.", LETTERS, OPTIONS) == 1
    assert chosen_option("I choose C, since to run away is dangerous.", LETTERS, OPTIONS) == 2


def test_labels_come_without_the_space_that_a_token_has():
    assert chosen_option("yes", (" no", " yes"), ("", "")) == 1
    assert chosen_option("The answer is no.", (" no", " yes"), ("-", "-")) == 0


def test_marks_that_mean_something_in_a_pattern_are_plain_in_a_label():
    assert chosen_option("a+b", ("a+", "(", "."), ("x", "y", "z")) is None
    assert chosen_option("The answer is a+", ("a+", "b+"), ("x", "y")) == 0


def test_only_labels_that_an_option_has_are_chosen():
    for answer in ("C", "(D)", "The answer is D"):
        assert chosen_option(answer, LETTERS[:2], OPTIONS[:2]) is None


def test_whatever_is_said_the_place_is_one_of_an_option():
    rng = np.random.default_rng(0)
    marks = ["answer", "is", "option", "not", "(", ")", ".", ",", ":", "**", "\n", "run", "é"]
    words = [*LETTERS, *NUMBERS, *marks, *OPTIONS]
    for _ in range(2000):
        answer = " ".join(rng.choice(words, rng.integers(0, 7)))
        count = int(rng.integers(2, 5))
        labels = (LETTERS, NUMBERS)[rng.integers(2)][:count]
        place = chosen_option(answer, labels, OPTIONS[:count])
        assert place is None or place in range(count)
        if place is not None:
            assert labels[place] in answer or OPTIONS[place].lower()[:-1] in answer.lower()


def test_which_option_is_read_hangs_on_the_label_and_not_on_its_place():
    for place, shape in product(range(4), ("{}", "({})", "{}.", "The answer is {}", "I choose option {}.")):
        for labels in (LETTERS, NUMBERS, LETTERS[::-1]):
            assert chosen_option(shape.format(labels[place]), labels, OPTIONS) == place


TEN = "ABCDEFGHIJ"
VALUES = [f"{n} m" for n in range(10, 20)]


@pytest.mark.parametrize("answer", ["I", "I.", "(I) 18 m", "The answer is I.", "The answer is I because it is long."])
def test_an_option_i_is_read(answer):
    assert chosen_option(answer, TEN, VALUES) == 8


@pytest.mark.parametrize(
    ("answer", "place"),
    [
        ("I, as a model, choose B", 1),
        ("I would say that the answer is B", 1),
        ("The option I choose is J", 9),
        ("My choice: I think none", None),
        ("I do not know.", None),
        ("I, too, cannot say.", None),
    ],
)
def test_the_word_i_is_no_option(answer, place):
    assert chosen_option(answer, TEN, VALUES) == place
