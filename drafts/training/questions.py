"""Questions for a chat model: forms times topics, so that the target has something to answer."""

from __future__ import annotations

import random

_TOPICS = """
the water cycle; photosynthesis; black holes; the French Revolution; supply and demand;
binary search; recursion; a healthy breakfast; learning the guitar; the Roman Empire;
climate change; electric cars; machine learning; hash tables; the solar system; vaccines;
volcanoes; chess openings; time management; public speaking; the stock market; renewable energy;
ancient Egypt; plate tectonics; the human heart; sleep; meditation; gardening in small spaces;
baking bread; the Industrial Revolution; Shakespeare; poetry; jazz music; photography;
the Great Wall of China; coral reefs; bees and pollination; rain forests; the immune system;
antibiotics; DNA; evolution; gravity; electricity; magnets; the speed of light; nuclear fusion;
space travel; the Moon landing; Mars; comets; the Big Bang; quantum mechanics; relativity;
prime numbers; probability; statistics; geometry; algebra; the Pythagorean theorem; percentages;
fractions; sorting algorithms; linked lists; operating systems; databases; computer networks;
encryption; passwords; open source software; version control; unit tests; web browsers;
artificial intelligence; robots; social media; remote work; job interviews; writing a resume;
email etiquette; teamwork; leadership; negotiation; budgeting; saving money; credit cards;
mortgages; taxes; inflation; small businesses; marketing; customer service; supply chains;
project management; starting a company; online shopping; travelling in Japan; a weekend in Paris;
a trip to Italy; hiking in the mountains; camping; swimming; running a marathon; yoga; football;
basketball; tennis; the Olympic Games; cycling to work; public transport; city planning;
architecture; painting; sculpture; film making; theatre; novels; short stories; fairy tales;
mythology; philosophy; ethics; democracy; human rights; the United Nations; constitutions;
elections; world history; the Middle Ages; the Renaissance; the Cold War; explorers; maps; oceans;
rivers; deserts; the Arctic; weather forecasts; hurricanes; earthquakes; recycling; plastic waste;
drinking water; farming; organic food; vegetarian cooking; pasta; soup; tea and coffee; chocolate;
spices; nutrition; vitamins; mental health; stress; friendship; family life; raising children;
pets; dogs; cats; birds; horses; whales; elephants; insects; dinosaurs; trees; flowers; mushrooms;
the seasons; holidays; birthdays; languages; learning a new language; grammar; spelling;
dictionaries; libraries; schools; universities; homework; exams; teachers; science fairs; museums;
inventions; the printing press; the telephone; the internet; smartphones; video games;
board games; puzzles; magic tricks; humour; music theory; the piano; orchestras
"""

_FORMS = """
What is {}?
Explain {} in simple terms.
Explain {} to a ten year old child.
Write a short essay about {}.
Write a short story about {}.
Write a poem about {}.
Give me five interesting facts about {}.
What are the main advantages and disadvantages of {}?
How does one get started with {}?
Why does {} matter?
Write a blog post about {}.
Give me tips on {}.
What are common mistakes people make about {}?
List ten words connected with {} and define each of them.
Write a dialogue between two friends about {}.
Summarize what is known about {} in three sentences.
What is the history of {}?
Make a step by step plan for a lesson on {}.
Write an email to a colleague about {}.
What would a beginner ask about {}? Answer these questions.
Write a quiz of five questions about {}, with the answers.
Tell me something surprising about {}.
Compare {} and {}.
How are {} and {} connected?
Translate this into French: I would like to know more about {}.
Can you recommend books about {}, and say why?
"""

_TASKS = """
Write a Python function that {}.
How do I write a program that {}? Show me the code.
Write a Python class that {}, and explain how it works.
Write a JavaScript function that {}.
"""

_JOBS = """
reverses a string; counts the words of a text; sorts a list of numbers;
finds the largest element of a list; checks whether a number is prime;
computes the factorial of a number; reads a CSV file and sums a column;
removes duplicates from a list; merges two sorted lists; converts Celsius to Fahrenheit;
finds all palindromes; computes Fibonacci numbers; implements a stack; implements a queue;
implements a binary search tree; downloads a web page; parses a date;
counts the vowels of a sentence; flattens a nested list; rolls two dice; keeps a shopping list;
validates an email address; computes the mean and the median; draws a triangle of stars;
groups words by their first letter; finds the shortest path in a graph; converts Roman numerals;
plays tic-tac-toe
"""

_ABOUT_TEXT = """
Summarize the following text.
What is the following text about?
Rewrite the following text in simpler words.
List the key points of this text.
Answer in one sentence: what does the author of this text want to say?
"""

_ABOUT_CODE = """
Explain what this code does.
Add comments to this code.
Find possible problems in this code.
Write a docstring for this code.
"""


def _items(text: str, separator: str) -> list[str]:
    return [item.strip() for item in text.replace("\n", separator).split(separator) if item.strip()]


def question(rng: random.Random, prose: str, code: str) -> str:
    """One question: general, about programming, or about a passage of `prose` or `code`."""
    kind = rng.random()
    if kind < 0.55:
        form = rng.choice(_items(_FORMS, "\n"))
        return form.format(*rng.sample(_items(_TOPICS, ";"), form.count("{}")))
    if kind < 0.7:
        return rng.choice(_items(_TASKS, "\n")).format(rng.choice(_items(_JOBS, ";")))
    if kind < 0.87:
        return f"{rng.choice(_items(_ABOUT_TEXT, chr(10)))}\n\n{prose}"
    return f"{rng.choice(_items(_ABOUT_CODE, chr(10)))}\n\n{code}"
