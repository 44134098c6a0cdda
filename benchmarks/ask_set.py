"""Three conversations and 36 questions on them, to ask what the shipped questions ask of a conversation not tuned on.

Two are between relatives or friends, one is between a user and an assistant that writes long messages. Facts change,
questions are answered in the next turn, some facts stand in a photo's caption only. Of the twelve questions on each,
nine can be answered; the other three ask for something never mentioned of the right person, for what is true of the
other person, and for what did not happen. Written without trying any system on them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from memspan import Episode


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedConversation:
    """A conversation and the questions on it.

    Attributes:
        name: what it is about.
        episodes: the turns; `id` is "D<session>:<turn>", a photo's caption is in `metadata`.
        questions: like those of `memspan.data.questions`.
    """

    name: str
    episodes: tuple[Episode, ...]
    questions: tuple[dict[str, Any], ...]


# "# name", then "== date time" for each session, "speaker: text [photo: caption]" for each turn, a minute apart, and
# "? category [as of] | question | answer; alias; … | ids of the turns any of which is a right citation".
WRITTEN = """
# allotment
== 2024-03-17 10:05
Rhona: Morning! Did Dad ring you about the allotment?
Keir: He did. He wants us to take it over, plot 19, the one with the crooked shed.
Rhona: I said yes for both of us, sorry not sorry.
Keir: Figures. I can do Saturdays, I've got band practice on Sundays.
Rhona: Are you still on bass?
Keir: Always. And you, still at the tax office?
Rhona: Sadly. Third floor, window onto a wall. But I've applied for something else, fingers crossed.
Keir: Ooh. Anyway, look what was in the shed. [photo: a rusty red wheelbarrow full of flower pots]
== 2024-05-26 19:40
Keir: The potatoes are up! Twelve rows.
Rhona: Twelve?? Who's going to eat all that.
Keir: You, mostly. What did you put in by the fence?
Rhona: Runner beans. Mrs Pascoe from the next plot gave me the seeds, she's a legend.
Keir: Is she the one with the bees?
Rhona: No, that's her brother Denzil. He's promised us a jar in August.
Rhona: Oh, and I got it! I start at the bird sanctuary on 10 June, I'll be running the visitor centre.
Keir: WHAT. Congratulations! No more wall.
== 2024-09-08 20:15
Keir: How's life with the birds?
Rhona: Wonderful. Tiring, though, we had 340 visitors on Saturday. Here's my office. [photo: a wooden hut on stilts above a marsh]
Keir: Jealous. My news is worse, the band broke up.
Rhona: No! What happened?
Keir: Fergus moved to Canada and nobody else can drum. So I do the plot on Sundays now, and on Saturdays I help out at the repair café.
Rhona: Fine by me. What about the bass?
Keir: Sold it. I bought a fiddle with the money, don't laugh.
Rhona: I'm not laughing, I'm fetching earplugs. How much did you get?
Keir: 420 pounds. There was enough left over for a new spade as well.
== 2025-02-02 11:30
Rhona: The committee wrote. The rent for the plot goes up from 60 to 75 pounds a year in April.
Keir: Outrageous, and worth it.
Rhona: Also, they gave us the corner plot we asked for, so we're on number 23 from now on.
Keir: With the apple tree? Does the shed come with us?
Rhona: It does not. Dad cried a bit.
Keir: I'll build him a new one. Have I told you I'm seeing someone?
Rhona: You have not! Name, age, opinions on potatoes?
Keir: Her name's Isolde, she mends clocks and she hates potatoes.
Rhona: Can't have everything. Bring her to Dad's seventieth, it's on 15 March.
? changed | Where does Rhona work now? | bird sanctuary; sanctuary; visitor centre | D2:7
? changed 2024-04-15 | Where did Rhona work in April 2024? | tax office | D1:6 D1:7
? changed | Which plot do Rhona and Keir have now? | 23; corner plot | D4:3
? changed 2024-07-15 | On which day of the week did Keir work on the allotment in July 2024? | Saturday | D1:4
? single-hop | Who gave Rhona the seeds for the runner beans? | Pascoe | D2:4
? temporal | When did Rhona start at the bird sanctuary? | 10 June; June 10; 2024-06-10 | D2:7
? multi-hop | What does Keir's girlfriend do? | clocks; clock | D4:8
? caption | What colour is the wheelbarrow that was in the shed? | red | D1:8
? single-hop | Which instrument did Keir get after he sold the bass? | fiddle; violin | D3:7
? unanswerable | What was the name of Keir's band?
? unanswerable | Which instrument does Rhona play?
? unanswerable | When did Keir move to Canada?

# waffles
== 2024-01-13 17:20
Linnea: Ayo! Happy new year, a bit late.
Ayo: To you too! How's the thesis?
Linnea: Slow. It's about peat bogs and I feel like one. I have to hand it in on 30 April.
Ayo: You'll make it. Who's supervising you again?
Linnea: Professor Halvorsen. He answers once a month.
Ayo: Ha. I've got something to tell you: we're having a baby in July.
Linnea: Ayo!!! Is Tunde over the moon?
Ayo: He has already built the cot. See for yourself. [photo: a white wooden cot with a stuffed elephant in it]
== 2024-04-20 09:10
Linnea: Small update, my deadline is 31 May now. Halvorsen fell off a horse.
Ayo: Off a what? Is he ok?
Linnea: Broken wrist. Doctor Qureshi's supervising me until I'm done, and she answers within the hour.
Ayo: Poor man, lucky you. We've found a bigger flat, by the way! Four rooms on Lantern Street, we move in on 1 June.
Linnea: Will you miss the old place?
Ayo: The stairs on Mill Road? Not for a second. Five floors with a pram, imagine.
Linnea: Do you need help carrying boxes?
Ayo: Always. My cousin Femi is lending us his van.
== 2024-08-11 14:45
Ayo: She's here! Since 19 July. I'm writing this with one hand.
Linnea: Oh Ayo, congratulations! What is she called?
Ayo: Abeni, after Tunde's grandmother. 3,600 grams and very loud.
Linnea: A beautiful name.
Ayo: Here she is with her big sister, as we call the dog. [photo: a baby on a striped blanket beside a sleeping greyhound]
Linnea: I'm melting. I handed in, did I say? On the very last day.
Ayo: Doctor Linnea! And what now?
Linnea: I've got a job at the water board in Tromso. I'm moving up there in September.
Ayo: That's so far! Who will I have waffles with?
== 2025-01-25 18:00
Ayo: How's the dark?
Linnea: Dark. But I've learnt to ski, sort of, and Tromso grows on you.
Ayo: Are you still in that basement?
Linnea: No, since December I've shared a house with two nurses. It has a sauna.
Ayo: Of course it does. I'm back at work next week, four days. Tunde's staying at home with Abeni till summer.
Linnea: At the theatre?
Ayo: Yes, still painting sets. The first one's a forest.
Linnea: Come and see mine, it's all white. I'd pick you up, I've got a car now, a rusty Subaru.
Ayo: We'll come at Easter, all three of us. And the dog.
? single-hop | What is Linnea's thesis about? | peat bogs; peat | D1:3
? changed 2024-03-15 | Who was supervising Linnea's thesis in March 2024? | Halvorsen | D1:5
? changed 2024-05-05 | Who was supervising Linnea's thesis at the beginning of May 2024? | Qureshi | D2:3
? changed | By which date did Linnea have to hand in her thesis in the end? | 31 May; May 31 | D2:1
? changed | In which town does Linnea live now? | Tromso | D3:8 D4:2
? temporal | When was Ayo's daughter born? | 19 July; July 19; 2024-07-19 | D3:1
? multi-hop | What is the name of Ayo's daughter? | Abeni | D3:3
? multi-hop | What does Ayo do at the theatre? | painting sets; paints sets; sets | D4:7
? caption | What sort of dog do Ayo and Tunde have? | greyhound | D3:5
? unanswerable | What is the name of Ayo's dog?
? unanswerable | What car does Ayo drive?
? unanswerable | When did Linnea break her wrist?

# ten kilometres
== 2024-04-06 15:00
Dorota: Hi, I want to run my first 10k. I'm 52 and I've never run further than the bus stop. Where do I start?
Assistant: Good for you, a first 10k is well within reach at 52. Start with three short sessions a week and a rest day after each of them. In weeks 1 to 3, alternate one minute of easy running with two minutes of walking, for about 25 minutes in all. In weeks 4 to 6, turn that around: two minutes of running, one minute of walking. From week 7 on, run without breaks and add roughly one kilometre a week. Easy means that you could hold a conversation; if you can't, slow down. Of everything you can buy, shoes matter most. When is your race, and which days suit you?
Dorota: It's the Lakeside Run on 16 June. Mondays, Wednesdays and Saturdays would work, after my shift.
Assistant: That leaves ten weeks, exactly what the plan needs. Keep Monday and Wednesday short and put the longest session on Saturday, so that Sunday is for resting. Write down after each session how far you went and how it felt on a scale from 1 to 10; if you note an 8 or more twice in a row, repeat that week instead of moving on. What sort of shifts do you work? It makes a difference for sleep and meals.
Dorota: I drive the number 8 tram, early shift, so I'm up at four.
Assistant: Then sleep is your most important training. Try to be in bed by nine, and take a nap of no more than half an hour after work before you put your shoes on. Have something small about an hour before you run: a banana is ideal, and so is a slice of toast. Drink a glass of water with it. On days when you slept less than five hours, swap the run for a walk; you lose nothing, and you avoid most of the injuries that beginners pick up when they are tired.
Dorota: Noted. These were in my cupboard, will they do? [photo: a pair of worn purple trainers on a doormat]
Assistant: They have had a good life, but I would retire them. Once the sole is worn smooth it no longer cushions, and your knees pay for it. Look for a running shop that lets you jog a few steps outside, go in the afternoon when your feet are a little larger, and leave a thumb's width in front of the toes.
== 2024-05-04 18:30
Dorota: Bad luck. I hurt my left knee on the stairs, and Dr Wieczorek says no running for three weeks.
Assistant: I'm sorry, that is frustrating. Follow the doctor's advice to the letter: a knee that is allowed to heal comes back, and one that isn't stays with you. In the meantime you can keep your heart fit with swimming or easy cycling, as long as neither hurts. With three weeks off, you would have only three weeks left before the Lakeside Run, which is too little for a whole 10k. You could enter a shorter distance there, or you could choose a later race and start again at week 3 of the plan. I would choose the second.
Dorota: So would I. I'll do the Harvest Run on 22 September instead. My daughter Iga is signing up as well.
Assistant: A good decision, and a training partner is worth more than any gadget. Begin again at week 3 on 27 May, with walking breaks, and stay a week longer in each phase than we had planned. That takes you to the middle of August with running for an hour, and leaves a month for getting comfortable. If the knee complains going downstairs the morning after, take two days off.
Dorota: Is swimming really all right for it?
Assistant: Yes, with two conditions. It must not hurt, and you should prefer front crawl or backstroke to breaststroke, because the kick of the breaststroke twists the knee. Half an hour is plenty.
Dorota: I'll go on Tuesdays and Fridays then, it's next to the depot.
Assistant: Perfect, that leaves a rest day in between.
== 2024-08-17 09:20
Dorota: Back again! Last Saturday I ran 7 km without stopping, in 51 minutes.
Assistant: That is excellent, a little over seven minutes a kilometre, and after a knee injury too. You don't need to get any faster before the race. Run 8 km next weekend and 9 km the weekend after, then go back to 6 for a week so that your legs can recover. Whoever can run 9 km in training can run 10 on the day, because the crowd carries you through the rest. How is everything else?
Dorota: My shifts have changed, I've been on the late shift since 1 August. So I run in the mornings now.
Assistant: Morning runs are lovely at this time of year. Since your body is stiffer after sleep, walk briskly for ten minutes before you start, and don't skip breakfast on the long days.
Dorota: And you were right about the shoes. I've had new ones since last week. [photo: bright orange running shoes in an open box]
Assistant: They look fast. Wear them for short runs first, and never for the first time on race day.
Dorota: One more thing, what should I eat the evening before?
Assistant: Nothing adventurous. Pasta or rice with a mild sauce is the classic for good reason: it fills your stores and sits quietly in the stomach. Eat early, drink enough, leave out beans, cabbage and anything very spicy, and don't try anything that you have never eaten before.
== 2024-09-29 19:05
Dorota: I did it! 1 hour and 14 minutes, and I wasn't last.
Assistant: Congratulations, what a result for a first 10k! Take it easy this week: walking and a little swimming, no running before Saturday. How did it go for Iga?
Dorota: She had to drop out, she's got the flu. My neighbour Ludwik ran with me instead.
Assistant: Poor Iga, I hope she is better soon. How lucky that somebody could step in. Give yourself time to enjoy this before you think of anything longer.
Dorota: Too late. There's a half marathon in Torun on 11 May, would that be mad?
Assistant: Not mad at all, you have more than seven months. Spend the autumn running three times a week without any plan, so that it stays a pleasure. From January on, lengthen one run a week by about a kilometre, with an easier week after every third. When you reach 18 km in April you are ready. Do some strength training for the knee twice a week, and keep the swimming.
Dorota: Then I'm signing up tonight.
Assistant: Wonderful. Come back in January and we will write the plan together.
? changed | Which race did Dorota choose after she hurt her knee? | Harvest Run; Harvest | D2:3
? changed 2024-05-15 | Which shift did Dorota work in May 2024? | early shift; early | D1:5
? changed | Which shift does Dorota work now? | late shift; late | D3:3
? single-hop | What does Dorota do for a living? | tram | D1:5
? single-hop | What did the assistant say Dorota should eat an hour before a run? | banana; toast | D1:6
? multi-hop | On which days did Dorota want to go swimming? | Tuesdays and Fridays; Tuesday | D2:7
? multi-hop | Who ran the Harvest Run with Dorota? | Ludwik; neighbour | D4:3
? temporal | When is the half marathon that Dorota signed up for? | 11 May; May 11; 2025-05-11 | D4:5
? caption | What colour are Dorota's new running shoes? | orange | D3:5
? unanswerable | In which town does Dorota live?
? unanswerable | What does Ludwik do for a living?
? unanswerable | Which hospital operated on Dorota's knee?
"""  # noqa: E501

_PHOTO = re.compile(r"(.*) \[photo: (.+)\]")


def conversations() -> list[AskedConversation]:
    """The three conversations with their questions."""
    return [_conversation(block) for block in WRITTEN.split("\n# ")[1:]]


def _conversation(block: str) -> AskedConversation:
    name, *lines = block.strip().splitlines()
    episodes: list[Episode] = []
    questions: list[dict[str, Any]] = []
    session, start, turn = 0, datetime.min, 0
    for line in lines:
        if line.startswith("== "):
            session, start, turn = session + 1, datetime.fromisoformat(f"{line[3:].replace(' ', 'T')}+00:00"), 0
        elif line.startswith("? "):
            questions.append(_question(f"{name.replace(' ', '-')}/{len(questions) + 1}", line[2:]))
        else:
            speaker, text = line.split(": ", 1)
            photo = _PHOTO.fullmatch(text)
            turn += 1
            episodes.append(
                Episode(
                    photo[1] if photo else text,
                    speaker=speaker,
                    at=start + timedelta(minutes=turn - 1),
                    session=f"session {session}",
                    id=f"D{session}:{turn}",
                    metadata={"caption": photo[2]} if photo else {},
                )
            )
    return AskedConversation(name=name, episodes=tuple(episodes), questions=tuple(questions))


def _question(question_id: str, line: str) -> dict[str, Any]:
    how, question, *rest = (part.strip() for part in line.split(" | "))
    category, _, as_of = how.partition(" ")
    values, evidence = (rest[0].split("; "), rest[1].split()) if rest else ([], [])
    return {
        "id": question_id,
        "question": question,
        "answer": values[0] if values else None,
        "aliases": values[1:],
        "evidence": evidence,
        "as_of": as_of or None,
        "category": category,
    }
