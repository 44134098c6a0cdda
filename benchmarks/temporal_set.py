"""The temporal set that systems are developed on: what holds now, what held on a date, what was known on a date.

`build(seed)` makes items from templates (eight relations, seven histories each) and adds twenty dialogues written by
hand; `temporal_items.py` says how to run them. It was written without trying any system on it, but systems may be tuned
on it, so figures on it may flatter them; those on `temporal_set_held_out.py` should not.
"""

from __future__ import annotations

from benchmarks.temporal_items import Relation, TemplateSet, TemporalItem, read_dialogues

PEOPLE = (
    "Mara",
    "Jonas",
    "Priya",
    "Wanda",
    "Callum",
    "Henrik",
    "Odile",
    "Teodor",
    "Ingrid",
    "Rashid",
    "Bettina",
    "Owen",
)

RELATIONS: dict[str, Relation] = {
    "home city": Relation(
        values=("Oslo", "Porto", "Graz", "Leeds", "Turin", "Lyon", "Krakow", "Seville", "Dresden", "Cork"),
        states=(
            "I live in {v}, not far from the river.",
            "My flat in {v} is small but it has a balcony.",
            "{s} lives in {v}, by the way.",
            "I'm based in {v}, so come and visit.",
            "Did you know that {s}'s home is in {v}?",
        ),
        changes=(
            "I moved to {v} {when}.",
            "We carried the last box up {when}, so {v} is home now.",
            "{s} moved from {old} to {v} {when}.",
            "I've left {old}. I live in {v} now.",
            "{s} has settled in {v}; the move was {when}.",
        ),
        late=(
            "I never told you, but I've been living in {v} since {day}.",
            "It turns out that {s} moved to {v} on {day}.",
            "I should have said so long ago: on {day} I moved to {v}.",
        ),
        past=(
            "From {day} until {until} I lived in {v}.",
            "{s} once told me about living in {v}, from {day} until {until}.",
        ),
        traps=("I spent a long weekend in {v} and came back with a cold.", "My aunt sends her regards from {v}."),
        now=("Where does {s} live now?", "In which city does {s} live these days?"),
        then=("where did {s} live", "which city was {s} living in"),
    ),
    "employer": Relation(
        values=("Brightwell", "Norvik Foods", "Castellan Bank", "Tamarisk", "Hallmoor", "Quillon", "Averline"),
        states=(
            "I work for {v}, in the building with the green roof.",
            "I'm at {v}, and the canteen is the best part.",
            "{s} works at {v}.",
            "My employer is {v}, if you need it for the form.",
            "{s} has a job at {v}, and seems to like it.",
        ),
        changes=(
            "I started at {v} {when}.",
            "I left {old} {when} and now I work for {v}.",
            "{s} quit {old} and joined {v} {when}.",
            "My new employer is {v}; I signed {when}.",
            "{s} works for {v} now, no longer for {old}.",
        ),
        late=(
            "I kept it quiet, but I've been working for {v} since {day}.",
            "I only heard it today: {s} left {old} and started at {v} on {day}.",
            "On {day} I changed jobs and joined {v}. I forgot to mention it.",
        ),
        past=("From {day} until {until} I worked for {v}.", "{s} worked at {v} from {day} until {until}."),
        traps=("A man from {v} rang and I hung up on him.", "I read that {v} is building a new warehouse."),
        now=("Who does {s} work for now?", "What is the name of {s}'s employer at present?"),
        then=("which company did {s} work for", "who was {s}'s employer"),
    ),
    "job title": Relation(
        values=("payroll clerk", "team leader", "product manager", "data engineer", "head nurse", "school librarian",
                "safety inspector", "pastry chef"),
        states=(
            "I work as a {v}.",
            "My job title is {v}, for what it's worth.",
            "{s} is a {v}.",
            "It says {v} on my badge.",
            "{s} earns a living as a {v}.",
        ),
        changes=(
            "I became a {v} {when}.",
            "No longer a {old}: {when} they made me a {v}.",
            "{s} was made a {v} {when}.",
            "{s} works as a {v} now, no longer as a {old}.",
            "My badge says {v} now; it changed {when}.",
        ),
        late=(
            "I've been a {v} since {day}, I just don't talk about it.",
            "{s} became a {v} on {day}, and none of us noticed.",
            "I haven't been a {old} for a while: I became a {v} on {day}.",
        ),
        past=("I was a {v} from {day} until {until}.", "From {day} until {until}, {s} was a {v}."),
        traps=("They are looking for a {v} at the town hall.", "My cousin once wanted to be a {v}."),
        now=("What is {s}'s job title now?", "What does {s} work as these days?"),
        then=("what did {s} work as", "what was {s}'s job title"),
    ),
    "partner": Relation(
        values=("Florian", "Salma", "Viktor", "Leonie", "Anselm", "Camille", "Dmitri", "Rosalind", "Matteo", "Sunniva"),
        states=(
            "{v} and I are a couple.",
            "I'm together with {v}, as you know.",
            "{s} and {v} are a couple.",
            "My partner is called {v}.",
            "{s}'s partner is {v}.",
        ),
        changes=(
            "{old} and I split up a while ago, and {when} {v} and I became a couple.",
            "My partner is {v} now. {old} and I are over.",
            "{s} left {old}, and has been with {v} since we last spoke.",
            "{s} and {old} broke up; {when} {s} and {v} became a couple.",
            "I'm with {v} now. It began {when}, well after {old} and I had parted.",
        ),
        late=(
            "{old} and I broke up on {day}, and that same evening {v} and I became a couple.",
            "{s} left {old} for {v} on {day}. I only learnt it now.",
            "{v} has been my partner since {day}, when {old} and I parted.",
        ),
        past=(
            "From {day} until {until} my partner was {v}.",
            "{s} was in a relationship with {v} from {day} until {until}.",
        ),
        traps=("I ran into {v} at the station, always in a hurry.", "{v} from the bakery says hello."),
        now=("Who is {s}'s partner now?", "Who is {s} together with these days?"),
        then=("who was {s}'s partner", "who was {s} together with"),
    ),
    "phone number": Relation(
        values=("555-0142", "555-0187", "555-0113", "555-0168", "555-0129", "555-0175", "555-0151", "555-0196"),
        states=(
            "My phone number is {v}.",
            "You can reach me on {v}.",
            "{s}'s number is {v}.",
            "Write it down: {v}, that's my phone.",
            "If you want to ring {s}, the number is {v}.",
        ),
        changes=(
            "I have a new phone number, {v}; the old one stopped working {when}.",
            "My number changed {when}, it is {v} now.",
            "{s}'s number is {v} now, not {old} any more.",
            "{s} got a new number {when}: {v}.",
            "Please delete {old}. My number is {v} now.",
        ),
        late=(
            "You have my old number, I think. It has been {v} since {day}.",
            "{s} changed numbers on {day}; the new one is {v}.",
            "No wonder you can't reach me: on {day} my number changed to {v}.",
        ),
        past=("From {day} until {until} my number was {v}.", "From {day} until {until} {s}'s number was {v}."),
        traps=("The plumber can be reached on {v}.", "Somebody keeps ringing me from {v}."),
        now=("What is {s}'s phone number now?", "On which number can {s} be reached at present?"),
        then=("what was {s}'s phone number", "on which number could {s} be reached"),
    ),
    "meeting day": Relation(
        values=("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"),
        subjects=("book club", "chess club", "choir", "garden committee", "language class", "running group"),
        states=(
            "The {s} meets on {v}s.",
            "The {s} gets together every {v}.",
            "The {s} is always on a {v}.",
            "{v} is the day of the {s}.",
        ),
        changes=(
            "The {s} was moved from {old} to {v} {when}.",
            "The {s} meets on {v}s now, no longer on {old}s.",
            "They changed the day of the {s} {when}: it is {v} now.",
            "It was decided {when}: the {s} meets every {v} from now on.",
        ),
        late=(
            "Nobody told me, but the {s} has met on {v}s since {day}.",
            "On {day} the {s} was moved from {old} to {v}. I only found out today.",
            "The day of the {s} changed to {v} on {day}, it seems.",
        ),
        past=(
            "From {day} until {until} the {s} met on {v}s.",
            "The {s} used to meet on {v}s, from {day} until {until}.",
        ),
        traps=("The dentist only works on {v}s.", "The bins are emptied on a {v} in our street."),
        now=("On which day does the {s} meet now?", "What day is the {s} on these days?"),
        then=("on which day of the week did the {s} meet", "what was the day of the {s}"),
    ),
    "budget": Relation(
        values=("850 euros", "1,800 euros", "2,400 euros", "3,150 euros", "4,700 euros", "6,900 euros", "7,200 euros"),
        subjects=("kitchen", "summer party", "school play", "bicycle shed", "exhibition", "website"),
        states=(
            "The budget for the {s} is {v}.",
            "We have {v} for the {s}.",
            "They gave us a budget of {v} for the {s}.",
            "The {s} has a budget of {v}.",
        ),
        changes=(
            "The budget for the {s} was changed to {v} {when}.",
            "The {s}'s budget went from {old} to {v} {when}.",
            "We have {v} for the {s} now, not {old}.",
            "{when_first} the board set the budget for the {s} to {v}.",
        ),
        late=(
            "I just saw the minutes: since {day} the budget for the {s} has been {v}.",
            "On {day} the budget for the {s} was changed to {v}, and nobody told us.",
            "It seems that the {s} has had a budget of {v} since {day}.",
        ),
        past=(
            "From {day} until {until} the budget for the {s} was {v}.",
            "The {s} had a budget of {v} from {day} until {until}.",
        ),
        traps=("Somebody sold an old piano for {v}.", "A new roof would cost {v}, says the carpenter."),
        now=("What is the budget for the {s} now?", "How much money is there for the {s} at present?"),
        then=("what was the budget for the {s}", "how large was the budget for the {s}"),
    ),
    "favourite dish": Relation(
        values=("lasagne", "ramen", "moussaka", "paella", "pierogi", "shakshuka", "goulash", "falafel", "ratatouille"),
        states=(
            "My favourite dish is {v}.",
            "There is nothing I like better than {v}.",
            "{s}'s favourite dish is {v}.",
            "Of all dishes I like {v} best.",
            "If you cook for {s}, make {v}: it's the favourite.",
        ),
        changes=(
            "I tried {v} {when} and it's my favourite dish now.",
            "I've gone off {old}. My favourite dish is {v} now.",
            "{s} prefers {v} to everything now, even to {old}.",
            "{s} has a new favourite dish, {v}, ever since that dinner {when}.",
            "Forget {old}: my favourite is {v} now, I ate it {when} for the first time.",
        ),
        late=(
            "My favourite dish has been {v} since {day}, didn't I say?",
            "{s} told me that {v} has been the favourite dish since {day}.",
            "On {day} {v} became my favourite dish and {old} lost its place.",
        ),
        past=(
            "From {day} until {until} my favourite dish was {v}.",
            "{s}'s favourite dish was {v} from {day} until {until}.",
        ),
        traps=("They had {v} at the fair, nobody touched it.", "The canteen did {v} today, it was burnt."),
        now=("What is {s}'s favourite dish now?", "Which dish does {s} like best these days?"),
        then=("what was {s}'s favourite dish", "which dish did {s} like best"),
    ),
}  # fmt: skip

CHATTER = (
    "It rained all morning here.", "Did you see the match?", "I finally fixed the kitchen tap.",
    "The neighbours have a new puppy, it howls.", "I can't find my umbrella anywhere.", "That film was far too long.",
    "I slept badly, the heating made noises.", "The train was late again.", "I'm reading a novel about lighthouses.",
    "My bicycle has a flat tyre.", "We should play cards again soon.", "The tomatoes are ripe at last.",
    "I burnt the toast twice today.", "Ha, that made me laugh.", "Sorry for the late reply, it was a busy week.",
    "Somebody left a piano on the pavement.", "I bought far too many apples.", "The concert was sold out.",
    "My back hurts from all that lifting.", "Thanks for the postcard!", "The lift is broken again.",
    "I started a jigsaw puzzle with two thousand pieces.", "What a sunset that was.", "The printer hates me.",
)  # fmt: skip

TEMPLATES = TemplateSet(people=PEOPLE, relations=RELATIONS, chatter=CHATTER)

WRITTEN = """
== the car
2024-02-03 Signe: The old Volvo started again, a miracle.
2024-02-03 Bo: Mine is a Fiat and it never fails me.
2024-04-20 Bo: I saw a Tesla on fire on the motorway.
2024-06-11 Signe: I sold the Volvo yesterday and drove home in a Skoda.
2024-06-11 Bo: And I thought you'd keep it until it fell apart.
2024-11-02 Bo: The Fiat has 200,000 kilometres on it now.
? now | What car does Signe drive now? | Skoda | Volvo; Fiat; Tesla
? as_of 2024-03-15 | What car did Signe drive on 15 March 2024? | Volvo | Skoda; Fiat; Tesla

== the wedding date
2024-03-10 Amara: We set the date: the wedding will be on 14 September.
2024-03-10 Giles: My sister gets married on 3 August, what a summer.
2024-05-22 Amara: The barn is flooded. We had to push the wedding back to 5 October.
2024-05-22 Giles: October is lovely. I'll tell my mother.
2024-06-30 Giles: The other one, my sister's, is still on 3 August.
? now | When is Amara's wedding? | 5 October | 14 September; 3 August
? believed 2024-04-15 | As far as we knew on 15 April 2024, when would Amara's wedding be? | 14 September | 5 October; 3 August

== a surname
2024-01-20 Petra: Petra Hollis here, I have a question about the lease.
2024-01-20 Desk: Good morning, Ms Hollis. How can we help?
2024-07-08 Petra: I got married in June and my surname is Quist now.
2024-07-08 Desk: Congratulations! We will change the papers.
2024-07-09 Desk: A note from Mr Brandt upstairs: the lamp on the stairs is broken.
? now | What is Petra's surname now? | Quist | Hollis; Brandt
? as_of 2024-02-10 | What was Petra's surname on 10 February 2024? | Hollis | Quist; Brandt

== told at the reunion
2024-02-01 Edda: Lukas is still a fireman in Bern, I think.
2024-02-01 Ravi: And Selma is a fireman too? No, a vet, in Basel.
2024-10-12 Edda: Lukas was at the reunion. He told me that he moved to Zurich on 1 May.
2024-10-12 Ravi: I had no idea. Selma hasn't moved, she said so herself.
? now | Where does Lukas live now? | Zurich | Bern; Basel
? as_of 2024-07-15 | Where did Lukas live on 15 July 2024? | Zurich | Bern; Basel
? believed 2024-07-15 | As far as we knew on 15 July 2024, where did Lukas live? | Bern | Zurich; Basel

== the dose
2024-03-04 Nurse: Mr Adair takes 20 mg of the tablets every morning.
2024-03-04 Doctor: Good. Mrs Lund takes 50 mg, don't mix them up.
2024-03-25 Doctor: Please raise Mr Adair's dose to 30 mg from today.
2024-03-25 Nurse: Noted.
2024-05-06 Doctor: He feels dizzy. Mr Adair's dose is 10 mg from today.
2024-05-07 Nurse: Mrs Lund is doing well.
? now | What is Mr Adair's dose now? | 10 mg | 20 mg; 30 mg; 50 mg
? as_of 2024-04-15 | What was Mr Adair's dose on 15 April 2024? | 30 mg | 20 mg; 10 mg; 50 mg
? as_of 2024-03-15 | What was Mr Adair's dose on 15 March 2024? | 20 mg | 30 mg; 10 mg; 50 mg

== the meeting room
2024-09-02 Ines: The weekly review takes place in the Birch room.
2024-09-02 Arlo: And the design review in the Maple room?
2024-09-02 Ines: Yes, as always.
2024-10-14 Ines: From today the weekly review takes place in the Cedar room, Birch is being painted.
2024-10-14 Arlo: The Willow room is free as well, if Cedar is too small.
? now | In which room does the weekly review take place? | Cedar | Birch; Maple; Willow
? as_of 2024-09-20 | In which room did the weekly review take place on 20 September 2024? | Birch | Cedar; Maple; Willow

== no longer vegetarian
2024-01-15 Hugo: Don't cook meat for Thea, she is a vegetarian.
2024-01-15 Mina: I know. And I'm a vegan, remember.
2024-08-19 Hugo: Thea isn't a vegetarian any more. Since last month she eats fish, she is a pescatarian.
2024-08-19 Mina: Then you can make the trout.
? now | What sort of diet does Thea follow now? | pescatarian | vegetarian; vegan
? as_of 2024-03-10 | What sort of diet did Thea follow on 10 March 2024? | vegetarian | pescatarian; vegan

== the landlord
2024-02-12 Kofi: My landlord is Mr Stern, and he never answers.
2024-02-12 Vera: Mine is Mrs Abel. She answers too much.
2024-06-03 Kofi: The house was sold. Since 1 June my landlord is a Ms Ferrant.
2024-06-03 Vera: Is she any better than Mr Stern?
2024-06-17 Kofi: She fixed the boiler in a day.
2024-06-17 Vera: The plumber was Mr Okoro, I suppose. He is everywhere.
? now | Who is Kofi's landlord now? | Ferrant | Stern; Abel; Okoro
? as_of 2024-04-20 | Who was Kofi's landlord on 20 April 2024? | Stern | Ferrant; Abel; Okoro

== rent
2024-01-09 Lena: I pay 640 euros in rent, everything included.
2024-01-09 Milo: That's cheap, I pay 880 euros.
2024-04-02 Lena: Bad news: since yesterday my rent is 710 euros.
2024-04-02 Milo: Mine has not changed, touch wood.
2024-09-15 Lena: A new letter: from 1 January 2025 my rent will be 750 euros.
2024-09-15 Milo: That is shameless.
? as_of 2024-11-10 | How much rent did Lena pay on 10 November 2024? | 710 euros | 640 euros; 750 euros; 880 euros
? as_of 2025-02-10 | How much rent did Lena pay on 10 February 2025? | 750 euros | 640 euros; 710 euros; 880 euros
? as_of 2024-02-20 | How much rent did Lena pay on 20 February 2024? | 640 euros | 750 euros; 710 euros; 880 euros

== team captain
2024-03-01 Coach: Farid is the captain of our team.
2024-03-01 Dana: And who is the captain of the juniors?
2024-03-01 Coach: Elias.
2024-05-10 Coach: Farid broke his leg. Tomorrow Noa takes over as captain of our team.
2024-05-10 Dana: Poor Farid. The trainer of the others sends her regards, Greta.
2024-08-23 Coach: Farid can walk again, but Noa stays captain.
? now | Who is the captain of Dana's team? | Noa | Elias; Greta; Farid
? as_of 2024-04-05 | Who was the captain of Dana's team on 5 April 2024? | Farid | Noa; Elias; Greta

== back again
2024-01-11 Stella: I live in Malmo, as ever.
2024-01-11 Ansel: And I'm in Aarhus until I retire.
2024-04-09 Stella: I moved to Bergen last week.
2024-04-10 Ansel: How far is it to Malmo from there?
2024-10-05 Stella: Bergen was too wet. Two weeks ago I moved back to Malmo.
2024-10-05 Ansel: I knew it.
? now | Where does Stella live now? | Malmo | Bergen; Aarhus
? as_of 2024-07-01 | Where did Stella live on 1 July 2024? | Bergen | Malmo; Aarhus
? as_of 2024-02-15 | Where did Stella live on 15 February 2024? | Malmo | Bergen; Aarhus

== the dog and the cat
2024-02-18 June: My dog Pepper ate a sock.
2024-02-18 Tariq: My cat Clove only eats tuna.
2024-09-09 June: Pepper died in August. He was fourteen.
2024-09-09 Tariq: I'm so sorry.
2024-12-01 June: Yesterday I brought home a new dog, she is called Biscuit.
2024-12-01 Tariq: Clove sends greetings from the sofa.
? now | What is June's dog called now? | Biscuit | Pepper; Clove
? as_of 2024-05-05 | What was the name of June's dog on 5 May 2024? | Pepper | Biscuit; Clove

== opening hours
2024-04-01 Runa: The library closes at 18:00.
2024-04-01 Max: The museum closes at 17:00, hurry up.
2024-06-24 Runa: The library has new hours: since 20 June it closes at 20:00.
2024-06-24 Max: The pool closes at 21:00, we can do both.
? now | At what time does the library close? | 20:00 | 18:00; 17:00; 21:00
? as_of 2024-05-15 | At what time did the library close on 15 May 2024? | 18:00 | 20:00; 17:00; 21:00

== somebody else's news
2024-01-25 Colm: I'm with Northgate Insurance, in the claims department.
2024-01-25 Asta: I work for Larch Software, they let me bring my dog.
2024-05-30 Asta: Big day: I left Larch Software on Monday and started at Ferro Maps.
2024-05-30 Colm: Well done! Nothing new at Northgate, the coffee is as bad as ever.
2024-05-31 Colm: My brother Finn started at Harrow Rail, by the way.
? now | Which company does Colm work for? | Northgate | Larch; Ferro; Harrow
? now | Which company does Asta work for? | Ferro | Larch; Northgate; Harrow

== the deadline
2024-10-01 Ebba: The report is due on 15 November.
2024-10-01 Sami: The slides are due on 8 November, I do those first.
2024-10-21 Ebba: We got more time, the report is now due on 29 November.
2024-10-21 Sami: What a relief.
2024-11-04 Ebba: Sorry, the client wants it sooner: the report is due on 22 November.
2024-11-04 Sami: And the slides?
2024-11-04 Ebba: No change there.
? now | When is the report due? | 22 November | 15 November; 29 November; 8 November
? believed 2024-10-28 | As far as we knew on 28 October 2024, when was the report due? | 29 November | 15 November; 22 November; 8 November
? believed 2024-10-10 | As far as we knew on 10 October 2024, when was the report due? | 15 November | 29 November; 22 November; 8 November

== the old days
2024-03-17 Greer: I teach at Oakfield School, the third year running.
2024-03-17 Leif: I taught at Millbrook School once and left after a week.
2024-08-31 Greer: Yesterday was my last day at Oakfield School. On Monday I start at Saint Hilda's.
2024-12-05 Greer: Did I ever tell you? From 2015 until 2019 I taught at Ravenhill School.
2024-12-05 Leif: The one with the bees?
? now | At which school does Greer teach now? | Hilda's | Oakfield; Millbrook; Ravenhill
? as_of 2017-05-01 | At which school did Greer teach on 1 May 2017? | Ravenhill | Oakfield; Millbrook; Hilda's
? as_of 2024-05-05 | At which school did Greer teach on 5 May 2024? | Oakfield | Ravenhill; Millbrook; Hilda's

== bringing it up late
2024-05-02 Nils: Ulla plays the cello in our orchestra.
2024-05-02 Frida: And Johan plays the horn, loudly.
2024-11-20 Frida: Ulla told me that she gave up the cello on 10 June. She plays the viola now.
2024-11-20 Nils: That explains a lot. I never look behind me.
? believed 2024-08-10 | As far as we knew on 10 August 2024, which instrument did Ulla play? | cello | viola; horn
? now | Which instrument does Ulla play now? | viola | cello; horn

== the price of the pass
2024-01-30 Ola: A monthly pass is 49 euros.
2024-01-30 Tilda: A weekly one is 15 euros, that's worse.
2024-07-03 Ola: Since 1 July the monthly pass costs 54 euros.
2024-07-03 Tilda: And the weekly one costs 17 euros. Everything gets dearer.
2025-01-04 Ola: They did it again, the monthly pass has cost 58 euros since Wednesday.
? now | What does a monthly pass cost now? | 58 euros | 49 euros; 54 euros; 15 euros; 17 euros
? as_of 2024-09-12 | What did a monthly pass cost on 12 September 2024? | 54 euros | 49 euros; 58 euros; 15 euros; 17 euros

== engaged and not
2024-02-14 Rosa: Emil and I are engaged!
2024-02-14 Kai: Wonderful! Paul and I have been married for six years now.
2024-06-21 Rosa: Emil and I called it off last week. I'm single.
2024-06-21 Kai: Oh Rosa. Come over, Paul is cooking.
2025-01-18 Rosa: I'm together with Adrian, since New Year's Eve.
2025-01-18 Kai: The man with the kayak?
? now | Who is Rosa together with now? | Adrian | Emil; Paul
? as_of 2024-04-10 | Who was Rosa engaged to on 10 April 2024? | Emil | Adrian; Paul

== which floor
2024-03-05 Zoe: Accounts is on the second floor.
2024-03-05 Ivo: And where is the post room?
2024-03-05 Zoe: On the ground floor, next to the lift.
2024-05-27 Zoe: We moved accounts to the fifth floor on Friday.
2024-05-27 Ivo: The fourth floor is empty then?
2024-05-27 Zoe: No, legal is on the fourth floor.
? now | On which floor is accounts now? | fifth floor | second floor; ground floor; fourth floor
? as_of 2024-04-10 | On which floor was accounts on 10 April 2024? | second floor | fifth floor; ground floor; fourth floor
"""  # noqa: E501


def build(seed: int = 0) -> list[TemporalItem]:
    """All items: 56 from templates, which the seed changes, and those of the 20 dialogues, which it does not."""
    return [*TEMPLATES.items(seed), *read_dialogues(WRITTEN)]
