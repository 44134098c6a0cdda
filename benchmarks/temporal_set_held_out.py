"""The temporal set that nothing is tuned on: what holds now, what held on a date, what was known on a date.

The same sorts of items as in `temporal_set.py`, with other relations, people, values and wordings, nearer to how people
type in a chat. Written without trying any system on it and without knowing the rules of any. Only totals on it count:
whoever mends a system after reading its misses turns it into a second development set.
"""

from __future__ import annotations

from benchmarks.temporal_items import Relation, TemplateSet, TemporalItem, read_dialogues

PEOPLE = (
    "Noemi",
    "Gareth",
    "Tuula",
    "Ashok",
    "Delphine",
    "Marek",
    "Siobhan",
    "Everett",
    "Yusuf",
    "Hedda",
    "Caspian",
    "Lucinda",
)

RELATIONS: dict[str, Relation] = {
    "car": Relation(
        values=("Corolla", "Passat", "Twingo", "Panda", "Mini", "Berlingo", "Duster", "Yaris"),
        states=(
            "My car's a {v}, older than some of my colleagues.",
            "yeah I've got a {v}, heated seats and everything",
            "{s} drives a {v}, you can hear it coming.",
            "Look out for {s}'s {v} in the car park, it's the one with the dent.",
            "I get to work in my trusty {v}, no complaints so far.",
        ),
        changes=(
            "Traded the {old} in {when}, so I'm driving a {v} now!",
            "So I finally bought a new car {when}. It's a {v}.",
            "{s} got rid of the {old} {when} and drives a {v} these days.",
            "The {old} died on me, it's a {v} for me from now on.",
            "Have you seen {s}'s new car? A {v}, picked up {when}.",
        ),
        late=(
            "You still think I've got the {old}? I've been driving a {v} since {day}.",
            "Only just noticed that {s} swapped the {old} for a {v} on {day}.",
            "Ah, forgot to say, I bought a {v} on {day} and gave up the old car.",
        ),
        past=(
            "I used to drive a {v}, from {day} to {until}, before your time.",
            "{s} had a {v} between {day} and {until}, believe it or not.",
        ),
        traps=(
            "Some idiot in a {v} nearly took my arm off at the crossing.",
            "Guess what won the rally in our village. A {v}.",
        ),
        now=("What car does {s} drive now?", "Which car has {s} got these days?"),
        then=("what car did {s} drive", "which car did {s} have"),
    ),
    "course of study": Relation(
        values=("architecture", "marine biology", "law", "musicology", "economics", "philosophy", "dentistry",
                "geology"),
        states=(
            "I'm studying {v}, in case you wondered why I never sleep.",
            "{v} student here, so no money and no time.",
            "{s}'s doing {v} at uni.",
            "{s} is enrolled in {v}, with all the reading that comes with it.",
            "My degree will be in {v}, if I ever finish.",
        ),
        changes=(
            "I've switched to {v}, signed the papers {when}. No more {old} for me.",
            "Gave up {old} {when}. It's {v} for me now and I've never been happier.",
            "{s} changed courses {when}, from {old} to {v}.",
            "Guess what, {s} is doing {v} now! The {old} thing just wasn't working out.",
            "Had a long think {when} and enrolled in {v}, so that's what I'm studying now.",
        ),
        late=(
            "Don't tell my parents, but I've been studying {v} since {day}.",
            "{s} actually dropped {old} and took up {v} on {day}, I only heard this morning.",
            "I switched courses on {day}, by the way. I do {v} now, not {old}.",
        ),
        past=(
            "Before all this I studied {v} for a bit, from {day} until {until}.",
            "Did you know {s} did {v} at another uni between {day} and {until}?",
        ),
        traps=(
            "My flatmate's ex teaches {v}, poor man.",
            "Some conference on {v} is in town, not a hotel bed to be had.",
        ),
        now=("What is {s} studying now?", "Which subject does {s} study these days?"),
        then=("what was {s} studying", "which subject did {s} study"),
    ),
    "boss": Relation(
        values=("Agnes", "Desmond", "Ottoline", "Bruno", "Yolanda", "Kasper", "Thandiwe", "Lorcan"),
        states=(
            "My boss is {v}, the one who hums in meetings.",
            "I report to {v}, and honestly it's fine.",
            "{s}'s boss is {v}, poor thing.",
            "{v} is my manager, so be nice if you bump into each other.",
            "{s} reports to {v}, I saw it on the org chart.",
        ),
        changes=(
            "New boss since we last spoke: {v}. {old} has left the company.",
            "{old} retired {when}, so {v} is my manager now.",
            "{s} has a new boss, {v}, who took over from {old} {when}.",
            "They reshuffled everything {when} and now I report to {v}.",
            "{s} doesn't work under {old} anymore, {v} is the boss now.",
        ),
        late=(
            "I've had {v} as my boss since {day}, did nobody tell you?",
            "News to me: on {day} {v} took over from {old} as {s}'s boss.",
            "Oh, {old}'s long gone. {v} became my boss on {day}.",
        ),
        past=(
            "A while back my boss was {v}, from {day} to {until}, and I learnt a lot.",
            "{s} used to work under {v}, between {day} and {until}.",
        ),
        traps=(
            "{v} from next door borrowed the ladder again.",
            "Got stuck in the lift with {v} from the gym, lovely chat.",
        ),
        now=("Who is {s}'s boss now?", "Who does {s} report to these days?"),
        then=("who was {s}'s boss", "who did {s} report to"),
    ),
    "email address": Relation(
        values=("redkettle@post.example", "slowotter@mail.example", "moonpie@inbox.example", "tinroof@post.example",
                "quietfox@mail.example", "paperboat@inbox.example", "oldbarn@mail.example"),
        states=(
            "Best way to get me is email, {v}.",
            "My email's {v}, all lower case.",
            "{s}'s email address is {v}, I looked it up.",
            "Just send it to {v}, that one's mine.",
            "You can write to {s} at {v}.",
        ),
        changes=(
            "New email address, folks: {v}. I stopped using {old} {when}.",
            "Changed my email {when}, please use {v}.",
            "{s} can't get into {old} any longer, so write to {s} at {v} from now on.",
            "{s} switched to a new email {when}, it's {v}.",
            "Got hacked {when}, ugh. My email address is {v} now.",
        ),
        late=(
            "You've been writing to the wrong inbox. I've used {v} since {day}.",
            "{s}'s email changed on {day}, I've only just seen the notice. It's {v} now.",
            "I gave up {old} on {day} and moved to {v}, should've warned you.",
        ),
        past=(
            "Ages ago, from {day} to {until}, my email was {v}. Don't laugh.",
            "{s} had {v} as an email address from {day} until {until}.",
        ),
        traps=("I keep getting spam from {v}, blocked it twice.", "The council wants complaints sent to {v}."),
        now=("What's {s}'s email address now?", "At which email address can {s} be reached these days?"),
        then=("what was {s}'s email address", "which email address did {s} use"),
    ),
    "instrument": Relation(
        values=("oboe", "banjo", "clarinet", "trombone", "harp", "mandolin", "bassoon", "ukulele", "marimba"),
        states=(
            "I play the {v}, badly but with feeling.",
            "My instrument's the {v}, so now you know who makes the noise.",
            "{s} plays the {v}, did you know?",
            "I practise the {v} nearly every evening, sorry neighbours.",
            "{s}'s instrument is the {v}, the rest of us just clap.",
        ),
        changes=(
            "Sold the {old}! I play the {v} now.",
            "{s} swapped the {old} for the {v} {when}.",
            "I took up the {v} {when} and haven't touched the {old} since.",
            "No more {old} at parties, {s} plays the {v} now.",
            "My wrists were killing me, so {when} I gave up the {old} for the {v}.",
        ),
        late=(
            "I've actually been playing the {v} instead of the {old} since {day}.",
            "{s} dropped the {old} on {day}, turns out. It's been the {v} ever since.",
            "It never came up, but on {day} I switched to the {v}.",
        ),
        past=(
            "As it happens I played the {v} from {day} until {until}. Quit when my teacher moved away.",
            "{s} played the {v} between {day} and {until}, there's a video.",
        ),
        traps=("Someone was murdering the {v} outside the station.", "There's a documentary about the {v} on tonight."),
        now=("What instrument does {s} play now?", "Which instrument is {s} playing these days?"),
        then=("what instrument did {s} play", "which instrument was {s} playing"),
    ),
    "opening time": Relation(
        values=("6:45", "7:30", "8:15", "9:00", "9:45", "10:30", "11:00"),
        subjects=("bakery", "bike shop", "post office", "hardware store", "florist", "fishmonger"),
        states=(
            "The {s} opens at {v}, so no rush.",
            "{v} is when the {s} opens, I asked.",
            "You can get into the {s} from {v} on, not a minute sooner.",
            "Doors at the {s} open at {v}.",
            "Checked the sign for you: the {s} opens at {v}.",
        ),
        changes=(
            "The {s} opens at {v} now, not {old}. I stood there like a fool.",
            "Heads up, the {s} changed its hours {when}: it opens at {v}.",
            "They shifted opening time at the {s} from {old} to {v} {when}.",
            "The sign at the {s} gives {v} as opening time now, it was {old} before.",
            "{when_first} the {s} started opening at {v}, must be the new owners.",
        ),
        late=(
            "Turns out the {s} has been opening at {v} since {day}.",
            "On {day} the {s} moved its opening time from {old} to {v}, and I've only just read the notice.",
            "Been going at the wrong time for weeks, the {s} has opened at {v} since {day}.",
        ),
        past=(
            "Way back, from {day} until {until}, the {s} opened at {v}.",
            "My old diary says the {s} opened at {v} between {day} and {until}.",
        ),
        traps=("My train's at {v}, wish me luck.", "The car alarm went off at {v} for no reason."),
        now=("At what time does the {s} open now?", "When does the {s} open these days?"),
        then=("at what time did the {s} open", "what was the opening time of the {s}"),
    ),
    "project lead": Relation(
        values=("Noor", "Emeka", "Sabine", "Tobias", "Hanako", "Luis", "Marguerite", "Piet"),
        subjects=("orchard survey", "audio guide", "data migration", "spring catalogue", "bridge repair", "podcast"),
        states=(
            "{v} is leading the {s}, so ask there first.",
            "The {s}? That's {v}'s project.",
            "{v} runs the {s}, I just carry the boxes.",
            "The lead on the {s} is {v}.",
            "{v} is in charge of the {s}, I saw the memo.",
        ),
        changes=(
            "{v} took over the {s} from {old} {when}.",
            "Small earthquake {when}: {v} leads the {s} now, {old} is out.",
            "{old} handed the {s} to {v} {when}, quite a relief all round.",
            "The {s} has a new lead, it's {v}.",
            "{v} is running the {s} now that {old} has gone back to sales.",
        ),
        late=(
            "Missed that email: {v} has been leading the {s} since {day}.",
            "On {day} they put {v} in charge of the {s} instead of {old}, nobody said a word.",
            "{old} isn't running the {s}, hasn't been since {day}. It's {v}.",
        ),
        past=(
            "Before any of us got here, from {day} to {until}, {v} led the {s}.",
            "{v} was in charge of the {s} between {day} and {until}, it says in the archive.",
        ),
        traps=("{v} brought cinnamon buns, the whole office smells.", "Could somebody water {v}'s plants?"),
        now=("Who leads the {s} now?", "Who is in charge of the {s} these days?"),
        then=("who was leading the {s}", "who was in charge of the {s}"),
    ),
    "ticket price": Relation(
        values=("£6.50", "£7.20", "£8.40", "£9.90", "£11.60", "£12.75", "£14.30"),
        subjects=("swimming pool", "cinema", "climbing gym", "planetarium", "puppet theatre", "zoo"),
        states=(
            "A ticket for the {s} costs {v}.",
            "They charge {v} a head at the {s}, bring cash.",
            "It's {v} to get into the {s}.",
            "Getting into the {s} costs {v}, kids or no kids.",
            "The {s} charges {v} for a ticket.",
        ),
        changes=(
            "Tickets for the {s} are {v} now, they were {old}.",
            "The {s} changed its ticket price to {v} {when}.",
            "New price list at the {s}: {v} a ticket instead of {old}.",
            "I nearly fell over at the till, getting into the {s} is {v} now.",
            "Good news or bad news, you decide: a ticket for the {s} went from {old} to {v} {when}.",
        ),
        late=(
            "Never noticed, but a ticket for the {s} has been {v} since {day}.",
            "The {s} changed its price from {old} to {v} on {day}, says the cashier.",
            "I've been telling people the wrong thing. Since {day} the {s} has charged {v} a ticket.",
        ),
        past=(
            "Found an old flyer: from {day} until {until} a ticket for the {s} cost {v}.",
            "Between {day} and {until} the {s} charged {v} for a ticket.",
        ),
        traps=(
            "Paid {v} for a sandwich at the airport, I'm still cross.",
            "There was {v} in the pocket of my winter coat!",
        ),
        now=("How much is a ticket for the {s} now?", "What does it cost to get into the {s} these days?"),
        then=("how much was a ticket for the {s}", "what did it cost to get into the {s}"),
    ),
}  # fmt: skip

CHATTER = (
    "Anyone seen my other glove?", "lol same", "The dog ate half a candle, he's fine.", "Ugh, Mondays.",
    "I've got soup on the stove, brb", "How's the weather your end?", "Couldn't stop yawning all day.",
    "You'd love the book I'm on, it's about moss.", "The boiler's making that sound again.", "Happy belated birthday!!",
    "I owe you a pint, remind me.", "That roundabout will be the death of me.", "Can't believe it's already this late.",
    "Our bins got knocked over by a fox, what a mess.", "Did you end up watching the eclipse?", "My knee says rain.",
    "Send me that recipe when you get a sec?", "I laughed so hard I spilled my tea.", "Sooo tired today.",
    "There's a wasp in here and one of us has to go.", "My nan says hi.", "Three people asked me the way today!",
    "The crossword beat me today.", "Wish we were back on that beach.",
)  # fmt: skip

TEMPLATES = TemplateSet(people=PEOPLE, relations=RELATIONS, chatter=CHATTER)

WRITTEN = """
== the hair
2024-02-20 Brigid: Couldn't resist, my hair is copper now. Came straight from the salon.
2024-02-20 Moses: Copper! Mine's still grey and staying that way.
2024-07-13 Brigid: Went blonde last weekend, my mother hasn't recovered.
2024-07-13 Moses: Lupe dyed hers purple, so yours is nothing.
2024-11-30 Brigid: Ok enough bleach. My hair's back to its natural brown since Thursday.
2024-11-30 Moses: Your mother must be relieved.
? now | What colour is Brigid's hair now? | brown | copper; blonde; grey; purple
? as_of 2024-09-01 | What colour was Brigid's hair on 1 September 2024? | blonde | copper; brown; grey; purple
? as_of 2024-04-10 | What colour was Brigid's hair on 10 April 2024? | copper | blonde; brown; grey; purple

== puppy at the vet
2024-03-02 Imani: Vet day. Waffles weighs 4 kg!
2024-03-02 Rolf: Tiny! Our Bosun's at 31 kg and still wants to sit on my lap.
2024-06-15 Imani: Waffles got weighed again this morning, 9 kg.
2024-06-15 Rolf: She'll be a pony.
2024-09-21 Imani: 14 kg as of today, little pig. The vet wants Waffles down to 12 kg.
2024-09-21 Rolf: Bosun sends a carrot.
? now | How much does Waffles weigh? | 14 kg | 4 kg; 9 kg; 12 kg; 31 kg
? believed 2024-07-20 | As far as we knew on 20 July 2024, how much did Waffles weigh? | 9 kg | 4 kg; 14 kg; 12 kg; 31 kg

== headcount
2024-01-16 Wilma: There are six of us on the support team and one desk too few.
2024-01-16 Deniz: Sales is eleven people, and no desks at all.
2024-05-21 Wilma: New faces! Support is eight people as of yesterday.
2024-05-21 Deniz: Still eleven over here.
2024-10-08 Wilma: Karl left on Friday. So we're seven in support now.
2024-10-08 Deniz: Who gets his chair?
? now | How many people are on the support team now? | seven | six; eight; eleven
? as_of 2024-07-01 | How many people were on the support team on 1 July 2024? | eight | six; seven; eleven
? as_of 2024-03-01 | How many people were on the support team on 1 March 2024? | six | seven; eight; eleven

== the wifi
2024-04-03 Lodger: hi, what's the wifi password up here?
2024-04-03 Host: It's plumcake42. The one downstairs is oldgoat17, ignore that.
2024-08-10 Host: Note to everyone: I reset the router this morning, the wifi password upstairs is now rainboot88.
2024-08-10 Lodger: Does plumcake42 still work in the garden?
2024-08-10 Host: Nope, forget that one.
? now | What is the wifi password upstairs now? | rainboot88 | plumcake42; oldgoat17
? as_of 2024-06-01 | What was the wifi password upstairs on 1 June 2024? | plumcake42 | rainboot88; oldgoat17

== piano lessons
2024-01-22 Fumi: My piano teacher is Mrs Okafor. Strict, but her biscuits are excellent.
2024-01-22 Gustav: I've got Mr Bellamy for the violin. No biscuits.
2024-09-03 Fumi: Sad news, Mrs Okafor moved away over the summer.
2024-09-03 Gustav: Oh no! Who's teaching you now?
2024-09-03 Fumi: Mr Szabo, since yesterday. He counts out loud.
2024-09-10 Gustav: Bellamy says he was once taught by a Mr Tran, whoever that is.
? now | Who is Fumi's piano teacher now? | Szabo | Okafor; Bellamy; Tran
? as_of 2024-03-15 | Who was Fumi's piano teacher on 15 March 2024? | Okafor | Szabo; Bellamy; Tran

== a stand at the fair
2024-02-26 Organiser: Orla, you'll be on stand 14, near the entrance.
2024-02-26 Orla: Great, thanks! And the brewery?
2024-02-26 Organiser: They're on stand 15.
2024-03-18 Organiser: Slight reshuffle, sorry. Orla's stand is 32 now, by the café.
2024-03-18 Orla: By the café is even better.
2024-04-09 Organiser: Last change, I promise: Orla's on stand 27. Brewery stays put.
? now | Which stand does Orla have? | 27 | 14; 32; 15
? believed 2024-03-25 | As far as we knew on 25 March 2024, which stand would Orla have? | 32 | 14; 27; 15
? believed 2024-03-05 | As far as we knew on 5 March 2024, which stand would Orla have? | 14 | 27; 32; 15

== the transfer
2024-03-09 Anouk: Ibrahim's at Durham, third year already.
2024-03-09 Pelle: Oh nice. My niece is at Bristol and hates the hills.
2024-10-19 Anouk: You'll laugh, Ibrahim changed universities. He's been at Exeter since 23 September.
2024-10-19 Pelle: For the course or for the girlfriend?
2024-10-19 Anouk: She's at Warwick, so the course I guess.
? now | Which university is Ibrahim at now? | Exeter | Durham; Bristol; Warwick
? as_of 2024-10-01 | Which university was Ibrahim at on 1 October 2024? | Exeter | Durham; Bristol; Warwick
? believed 2024-10-01 | As far as we knew on 1 October 2024, which university was Ibrahim at? | Durham | Exeter; Bristol; Warwick

== the flight
2024-05-06 Mireille: Booked! My flight leaves at 10:20 on the Friday.
2024-05-06 Sten: I'm on the 13:50 one, see you at the hotel then.
2024-05-29 Mireille: They've moved my flight, it leaves at 12:05 now.
2024-05-29 Sten: Mine hasn't budged.
2024-06-11 Mireille: Argh, again. My flight's at 15:35 now. I'm buying a book.
? now | At what time does Mireille's flight leave? | 15:35 | 10:20; 12:05; 13:50
? believed 2024-06-03 | As far as we knew on 3 June 2024, at what time would Mireille's flight leave? | 12:05 | 10:20; 15:35; 13:50

== parking
2024-01-11 Office: Zuzana, you have parking space B12 from today.
2024-01-11 Zuzana: Wonderful! And Harald?
2024-01-11 Office: Harald has C4.
2024-06-20 Zuzana: Somebody keeps blocking B12. Could I get another one?
2024-06-21 Office: Done, Zuzana, as of today you're in A9.
2024-06-24 Zuzana: Thanks, much closer.
? now | Which parking space does Zuzana have now? | A9 | B12; C4
? as_of 2024-04-01 | Which parking space did Zuzana have on 1 April 2024? | B12 | A9; C4

== quiz night
2024-02-07 Niamh: Quiz night's at the Black Swan, eight sharp.
2024-02-07 Otis: And karaoke's at the Anchor, don't let me mix them up like last time.
2024-06-05 Niamh: The Black Swan's shut for good. We've moved the quiz to the Plough.
2024-06-05 Otis: They do good chips.
2024-12-11 Otis: I'm at the Plough and there's nobody here??
2024-12-11 Niamh: Sorry!! Quiz night's been at the Red Lion since last Wednesday.
? now | Where is quiz night held now? | Red Lion | Black Swan; Plough; Anchor
? as_of 2024-09-15 | Where was quiz night held on 15 September 2024? | Plough | Black Swan; Red Lion; Anchor
? as_of 2024-03-20 | Where was quiz night held on 20 March 2024? | Black Swan | Plough; Red Lion; Anchor

== getting to work
2024-03-12 Vivek: I cycle to work, rain or shine.
2024-03-12 Maud: I take the tram and read.
2024-09-25 Vivek: Broke my collarbone, so I've been taking the bus to work since Monday.
2024-09-25 Maud: Ouch! Get well soon.
2025-02-03 Vivek: Plot twist, I bought a scooter. That's how I get to work from today.
2025-02-03 Maud: With that collarbone?
? now | How does Vivek get to work now? | scooter | bus; tram; cycle
? as_of 2024-11-15 | How did Vivek get to work on 15 November 2024? | bus | scooter; tram; cycle

== small feet
2024-04-08 Ewa: If you're buying shoes, Leo's a size 28.
2024-04-08 Granny: And little Mila?
2024-04-08 Ewa: Mila's a 24.
2024-10-26 Ewa: Before you order anything, Leo's feet have grown. He takes a 30 now.
2024-10-26 Granny: Already! I had the 28s in my basket.
2024-10-27 Ewa: Oh, and Mila's a 25 now.
? now | What shoe size does Leo take now? | 30 | 28; 24; 25
? now | What shoe size does Mila take now? | 25 | 24; 28; 30
? as_of 2024-06-01 | What shoe size did Leo take on 1 June 2024? | 28 | 30; 24; 25

== a new name for the boat
2024-05-01 Torsten: The boat's called Petrel, and she leaks.
2024-05-01 Nerys: Ours is the Gannet and she doesn't float at all.
2024-08-28 Torsten: Bad luck to rename a boat, they say, but we did it on Sunday. She's the Halcyon now.
2024-08-28 Nerys: Was Kittiwake taken?
2024-08-29 Torsten: Very funny.
? now | What is Torsten's boat called now? | Halcyon | Petrel; Gannet; Kittiwake
? as_of 2024-06-15 | What was Torsten's boat called on 15 June 2024? | Petrel | Halcyon; Gannet; Kittiwake

== changing banks
2024-02-29 Kirsi: I bank with Fenwick, my parents did too.
2024-02-29 Abdul: Lowland for me. Terrible app.
2024-11-07 Kirsi: Finally left Fenwick. I've been with Corvus since 1 October and the app is heaven.
2024-11-07 Abdul: Hm, my brother swears by Sterling Green.
? now | Which bank is Kirsi with now? | Corvus | Fenwick; Lowland; Sterling Green
? as_of 2024-10-20 | Which bank was Kirsi with on 20 October 2024? | Corvus | Fenwick; Lowland; Sterling Green
? believed 2024-10-20 | As far as we knew on 20 October 2024, which bank was Kirsi with? | Fenwick | Corvus; Lowland; Sterling Green

== the treasurer
2024-01-28 Secretary: Minutes: Philippa was elected treasurer, Juan stays chair.
2024-01-28 Bea: Well done Philippa!
2024-07-30 Secretary: Philippa is stepping down. Hamid takes over as treasurer on 1 September.
2024-07-30 Bea: Thank you Philippa, and good luck Hamid.
2024-07-31 Bea: For the record, I did nominate Sorcha.
? as_of 2024-10-10 | Who was treasurer on 10 October 2024? | Hamid | Philippa; Juan; Sorcha
? as_of 2024-08-15 | Who was treasurer on 15 August 2024? | Philippa | Hamid; Juan; Sorcha

== the front door
2024-03-23 Cleo: Our front door's yellow, you can't miss it.
2024-03-23 Bram: The neighbours have a red one, right?
2024-03-23 Cleo: Theirs is blue. The red one's across the road.
2024-09-14 Cleo: By the way, I got the paint out yesterday, so look for a green door at our place.
2024-09-14 Bram: And the neighbours?
2024-09-14 Cleo: Same as ever.
? now | What colour is Cleo's front door now? | green | yellow; red; blue
? as_of 2024-06-20 | What colour was Cleo's front door on 20 June 2024? | yellow | green; red; blue

== verbs
2024-01-05 Sverre: New year, new me, I'm learning Finnish.
2024-01-05 Dolores: I'm sticking with Welsh.
2024-05-19 Sverre: Confession: fifteen cases broke me. I quit Finnish last week and I'm learning Italian instead.
2024-05-19 Dolores: Ciao bello.
2024-05-20 Dolores: My nephew's doing Korean and he's ten.
? now | Which language is Sverre learning now? | Italian | Finnish; Welsh; Korean
? as_of 2024-03-03 | Which language was Sverre learning on 3 March 2024? | Finnish | Italian; Welsh; Korean

== the usual
2024-02-13 Tamsin: I always have a flat white, you know me.
2024-02-13 Igor: Espresso for me, and an oat latte for Wren.
2024-10-22 Tamsin: Doctor says no more coffee. So since last week my usual is peppermint tea.
2024-10-22 Igor: My condolences.
2024-10-23 Igor: Wren asks if you'd share a hot chocolate.
? now | What does Tamsin usually drink now? | peppermint tea | flat white; espresso; oat latte; hot chocolate
? as_of 2024-05-05 | What did Tamsin usually drink on 5 May 2024? | flat white | peppermint tea; espresso; oat latte; hot chocolate

== the spare key
2024-04-14 Hattie: Gave our spare key to Mr Nowak at number 6.
2024-04-14 Luca: Mine's with my sister Paola, she's never home.
2024-07-02 Hattie: Mr Nowak's off to Spain till Christmas, so our spare key's with Jocelyn now.
2024-07-02 Luca: The one with the parrot?
2024-07-02 Hattie: No, that's Mrs Adeyemi.
2025-01-06 Hattie: He's back! Mr Nowak has had our spare key again since New Year.
? now | Who has Hattie's spare key now? | Nowak | Jocelyn; Paola; Adeyemi
? as_of 2024-10-01 | Who had Hattie's spare key on 1 October 2024? | Jocelyn | Nowak; Paola; Adeyemi
? as_of 2024-05-20 | Who had Hattie's spare key on 20 May 2024? | Nowak | Jocelyn; Paola; Adeyemi

== personal best
2024-04-21 Jamal: Ran the half marathon in 1:52, new personal best!!
2024-04-21 Elke: Mine's 1:44 and I'm never doing it again.
2024-09-29 Jamal: 1:47 in the half marathon today, my best ever. Legs gone.
2024-09-29 Elke: Watch out, Marco did 1:39.
2025-03-16 Jamal: Slow one today, 1:58, it was blowing a gale. Not every half marathon's a record.
2025-03-16 Elke: You finished, that's what counts.
? now | What is Jamal's personal best in the half marathon? | 1:47 | 1:52; 1:44; 1:39; 1:58
? believed 2024-07-15 | As far as we knew on 15 July 2024, what was Jamal's personal best in the half marathon? | 1:52 | 1:47; 1:44; 1:39; 1:58
"""  # noqa: E501


def build(seed: int = 0) -> list[TemporalItem]:
    """All items: 56 from templates, which the seed changes, and those of the 20 dialogues, which it does not."""
    return [*TEMPLATES.items(seed), *read_dialogues(WRITTEN)]
