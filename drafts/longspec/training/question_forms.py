"""What questions are made of: forms with places to fill, and what fills them."""

TOPICS = """
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

FORMS = """
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

TASKS = """
Write a Python function that {}.
How do I write a program that {}? Show me the code.
Write a Python class that {}, and explain how it works.
Write a JavaScript function that {}.
"""

JOBS = """
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

ABOUT_TEXT = """
Summarize the following text.
What is the following text about?
Rewrite the following text in simpler words.
List the key points of this text.
Answer in one sentence: what does the author of this text want to say?
"""

ABOUT_CODE = """
Explain what this code does.
Add comments to this code.
Find possible problems in this code.
Write a docstring for this code.
"""

PERSONS = """
a historian; a doctor; a lawyer; a sea captain; a detective; a chef; a physics teacher;
a travel guide; a sports coach; a gardener; an economist; an old wizard; a robot from the future;
a journalist; a librarian; a mechanic; a nurse; an astronaut; a tired parent; a stand-up comedian
"""

PLACES = """
Hawaii; Kyoto; New York; a small fishing village; the Sahara; Vienna; the Scottish Highlands;
Rio de Janeiro; an abandoned railway station; Cairo; a mountain hut; Prague; the Grand Canyon
"""

WRITING = """
Compose a travel report about a trip to {place}, with what to see and what to eat.
Pretend to be {person} for the rest of this conversation. What do you think about {topic}?
Imagine that you are {person}. A visitor asks you about {topic}. Answer in fewer than 150 words.
Write a polite letter to a landlord about {topic}.
Draft an outline for an article on {topic}, with headings and the points of each.
Write a headline and an opening paragraph for a newspaper article on {topic}.
Write a short story that begins with the sentence: Nobody in {place} had expected it.
Write a speech that {person} could give about {topic}.
Describe {place} so that the reader can smell and hear it.
Write a product description for something that helps with {topic}.
Write a scene in which {person} and {other} argue about {topic}.
Give {person} three pieces of advice on {topic}.
Write a limerick about {person} in {place}.
Discuss how {topic} has changed society, with examples.
What does science say about {topic}? Name the open questions as well.
Explain how {topic} and {second} influence each other, and give a case study.
Describe the two main stages in the development of {topic}.
"""

FACTS = """
Who invented {}?
Who wrote the first book about {}?
When did {} begin?
Where is the largest museum of {}?
How many people work in {} today?
What is the meaning of the word behind {}?
Which country is best known for {}?
Who is the most famous person in the history of {}?
What year was the first law on {} passed?
What is the name of the science of {}?
What is the difference between {} and {}?
"""

SENTENCES = """
Translate German to English: Die Regierung will im kommenden Jahr mehr Geld für Schulen ausgeben.
Translate German to English: Der Trainer war nach dem Spiel mit seiner Mannschaft zufrieden.
Translate German to English: In vielen Städten steigen die Mieten schneller als die Löhne.
Translate German to English: Die Polizei sucht nach Zeugen des Unfalls, der sich am Abend ereignete.
Translate German to English: Forscher haben im Meer eine neue Art von Fischen entdeckt.
Translate German to English: Das alte Rathaus wird nach zehn Jahren wieder für Besucher geöffnet.
Translate German to English: Viele Bürger fordern bessere Busse und Bahnen auf dem Land.
Translate German to English: Am Montag beginnt der Prozess gegen den früheren Minister.
Translate French to English: Le nouveau pont sera ouvert à la circulation au printemps.
Translate French to English: Les enfants ont passé la journée au bord de la mer.
Translate French to English: Cette entreprise cherche des ingénieurs pour son usine de Lyon.
Translate French to English: Il a plu toute la semaine, mais le soleil revient demain.
Translate Spanish to English: El equipo ganó el partido en los últimos minutos.
Translate Spanish to English: La biblioteca está cerrada los domingos y los días festivos.
Translate Spanish to English: Mi hermana estudia medicina en la universidad de Madrid.
Translate Italian to English: Il treno per Roma parte alle nove dal secondo binario.
"""

WITH_TEXT = """
Summarize: {text}
{text}{gap}Question: What is this text about, and who is it for?
{text}{gap}Using only the text above, answer: what must the reader do first?
Read the following passage and answer in two sentences what it says about {topic}.{gap}{text}
Extract all names and numbers from this text, one per line.{gap}{text}
Rate the tone of the following text from 1 to 5 and give a reason.{gap}{text}
"""

FOLLOW_UPS = """
Now rewrite your answer in fewer words.
Rewrite your previous response as a poem.
Can you give an example?
Explain the second point in more detail.
Now say the same to a child.
Make a table of it.
Why is that so?
Translate your answer into German.
Are you sure? Check it step by step.
Take your answer and turn it into a list of five points.
"""

NAMES = (
    "Anna; Ben; Carla; David; Ella; Frank; Grace; Hugo; Ines; Jack; Kim; Leo; Mia; Noah; Olga; Paul"
)

THINGS = """
apples; books; pencils; marbles; tickets; eggs; stamps; cookies; bottles; chairs; shirts; coins
"""

PROBLEMS = """
{A} has {a} {thing} and buys {b} more every week. How many {thing} does {A} have after {c} weeks?
{A} pays {a} dollars for {b} {thing}. How much do {c} {thing} cost at the same price?
{A} has {a} {thing}. {B} has twice as many, and {C} has {b} fewer than {B}. How many in all?
A shop sells {thing} for ${b} each. With a discount of {p}%, how much do {c} of them cost?
{A} reads {a} pages a day and {B} reads {b} pages a day. How many pages do they read in {c} days?
{A} drives {a} miles in {c} hours. How far does {A} get in {d} hours at the same speed?
{A} is {b} years older than {B}. In {c} years their ages add up to {s}. How old is {A} now?
A box holds {b} {thing}. How many boxes does {A} need for {s} {thing}, and how many are left over?
{A} earns ${b} an hour and works {c} hours a day for {d} days. {p}% goes to taxes. How much is left?
A rectangle is {a} cm long and {b} cm wide. What are its area and its perimeter?
If {a} + x = {s}, what is x? Show your work.
What is {p}% of {s}?
{A} had {s} {thing}, gave {p}% of them to {B} and then lost {c}. How many are left?
Solve step by step: {a} * {b} - {c} * {d}.
Of {s} {thing}, {a} are red and {b} blue. What is the chance of drawing one that is neither?
"""

PUZZLES = """
If you overtake the person in third place in a race, what place are you in?
{A} is taller than {B}, and {B} is taller than {C}. Who is the shortest?
All {thing} in this box are old. Some old things are broken. Must some of the {thing} be broken?
{A} goes to the hospital every day but is never ill. How can that be?
Which does not belong: {thing}, {place}, {other}?
A clock shows a quarter past {d}. What will it show after {c} hours and {b} minutes?
{A}'s mother has three children: one is {B}, one is {C}. What is the third one called?
"""
