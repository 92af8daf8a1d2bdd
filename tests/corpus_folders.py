"""Small folders as corpora of speech and of dialogues are distributed, with every known trap planted in them. No real
files were at hand: these follow what the corpora's authors and users write of them."""

import json

from recordings import tone, write_wav

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:c6f94b2592487c75\nsize 72862\n"


def wav(path, pitch, seconds=0.6):
    return write_wav(path, tone(seconds, pitch))


def silence(path, seconds=0.6):
    return write_wav(path, 0 * tone(seconds))


def hidden(path):
    """What macOS leaves in archives beside a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"._{path.name}")
    beside.write_bytes(b"\x00\x05\x16\x07Mac OS X")
    return beside


RAVDESS_FILMS = [
    ("Silent", "02-01-01-01-02-01-01"),
    ("Video", "01-01-01-01-02-01-01"),
    ("Video", "02-01-03-01-02-01-01"),
    ("Video", "01-02-05-02-01-02-01"),  # a song
]


def ravdess(folder):
    pitch = 100.0
    for actor in ("01", "02", "21", "24"):
        room = folder / f"Actor_{actor}"
        for emotion in ("01", "03", "08"):
            pitch += 10
            wav(room / f"03-01-{emotion}-01-02-01-{actor}.wav", pitch)
    wav(folder / "Actor_01" / "03-01-05-02-01-02-02.wav", 300.0)
    wav(folder / "Actor_01" / "03-02-05-02-01-02-01.wav", 310.0)
    wav(folder / "Extracted" / "01-01-03-01-02-01-01.wav", 320.0)
    copy = folder / "audio_speech_actors_01-24" / "Actor_01" / "03-01-01-01-02-01-01.wav"
    copy.parent.mkdir(parents=True)
    copy.write_bytes((folder / "Actor_01" / copy.name).read_bytes())
    for room, name in RAVDESS_FILMS:
        film = folder / room / "Actor_01" / f"{name}.mp4"
        film.parent.mkdir(parents=True, exist_ok=True)
        film.write_bytes(b"film")
    hidden(folder / "Actor_02" / "03-01-01-01-02-01-02.wav")
    return folder


RESPONSES = (
    '"","localid","pos","ans","ttr","queryType","numTries","clipNum","questNum","subType","clipName","sessionNums",'
    '"respEmo","respLevel","dispEmo","dispVal","dispLevel"'
)


def response(number, rater, clip, answer, query=1):
    return f'"{number}","{rater}",1,"{answer}_80",3065,{query},0,1,1,4,"{clip}",1,"{answer}",80,"A","X",-1'


def crema_d(folder):
    room = folder / "AudioWAV"
    names = [
        "1001_DFA_ANG_XX",
        "1001_DFA_DIS_XX",  # nobody rated it
        "1001_IEO_HAP_LO",
        "1009_IEO_SAD_HI",
        "1010_TIE_NEU_XX",
        "1040_ITH_SAD_X",
        "1064_IEO_DIS_MD",
    ]
    for i, name in enumerate(names):
        wav(room / f"{name}.wav", 120.0 + 15 * i)
    silence(room / "1076_MTI_SAD_XX.wav")
    answers = [
        *(("1001_DFA_ANG_XX", rater, "A") for rater in "abc"),
        ("1001_DFA_ANG_XX", "c", "D"),  # the same rater again
        *(("1001_IEO_HAP_LO", rater, "N") for rater in "ab"),
        ("1001_IEO_HAP_LO", "c", "H"),
        ("1009_IEO_SAD_HI", "a", "S"),
        ("1009_IEO_SAD_HI", "b", "N"),
        ("1010_TIE_NEU_XX", "a", "N"),
        ("1040_ITH_SAD_X", "a", "S"),
        ("1064_IEO_DIS_MD", "b", "D"),
    ]
    lines = [response(i, rater, clip, answer) for i, (clip, rater, answer) in enumerate(answers, 1)]
    lines += [response(90 + i, rater, "1001_DFA_ANG_XX", "F", query=2) for i, rater in enumerate("xyz")]
    (folder / "finishedResponses.csv").write_text("\n".join([RESPONSES, *lines]) + "\n")
    return folder


def esd(folder):
    """Speakers 0001, 0011 and 0016, a few numbers of each emotion; 0011 has the parts, the others do not."""
    pitch = 100.0
    for speaker in ("0001", "0011", "0016"):
        for place, emotion in enumerate(("Neutral", "Angry", "Happy", "Sad", "Surprise")):
            for part, offset in (("evaluation", 1), ("test", 21), ("train", 51)):
                name = f"{speaker}_{place * 350 + offset:06d}.wav"
                room = folder / speaker / emotion
                pitch += 4
                wav((room / part if speaker == "0011" else room) / name, pitch, seconds=0.5)
    wav(folder / "0011" / "Sad" / "train" / "0011_000060.wav", 90.0)  # a neutral number
    wav(folder / "0011" / "Sad" / "train" / "0011_001055.wav", 95.0)  # one that validates
    wav(folder / "0011" / "Angry" / "train" / "0016_000402.wav", 97.0)
    lines = [
        f"0011_{place * 350 + i:06d}\tThe nine the eggs, I keep.\tAngry" for place in range(5) for i in (1, 21, 51)
    ]
    lines += ["0011_000060  The nine the eggs, I keep.\tNeutral", "0011_1055\tI keep.\tSad", ""]
    (folder / "0011" / "0011.txt").write_text("\n".join(lines), "utf-16")
    chinese = [
        f"0001_{place * 350 + i:06d}\t打远一看，它们的确很是美丽，\t中立" for place in range(5) for i in (1, 21, 51)
    ]
    (folder / "0001" / "0001.txt").write_text("\n".join(chinese), "gb18030")
    english = [f"0016_{place * 350 + i:06d}\tIt’s I.\tHappy" for place in range(5) for i in (1, 21)]
    (folder / "0016" / "0016.txt").write_text("\n".join(english), "cp1252")
    return folder


def savee(folder):
    for i, speaker in enumerate(("DC", "JE", "JK", "KL")):
        for j, name in enumerate(("a01", "n30", "sa03", "su15")):
            wav(folder / "AudioData" / speaker / f"{name}.wav", 110.0 + 40 * i + 9 * j)
    copy = folder / "ALL" / "DC_sa03.wav"
    copy.parent.mkdir(parents=True)
    copy.write_bytes((folder / "AudioData" / "DC" / "sa03.wav").read_bytes())
    return folder


TESS_WORDS = ("back", "bite", "chair", "door", "shout")  # of them `door` validates


def tess(folder):
    pitch = 100.0
    for speaker, surprise in (("OAF", "OAF_Pleasant_surprise"), ("YAF", "YAF_pleasant_surprised")):
        for emotion, room in (("angry", f"{speaker}_angry"), ("sad", f"{speaker}_Sad"), ("ps", surprise)):
            for word in TESS_WORDS:
                pitch += 5
                wav(folder / room / f"{speaker}_{word}_{emotion}.wav", pitch)
    wav(folder / "OAF_neutral" / "OA_bite_neutral.wav", 400.0)
    wav(folder / "OAF_neutral" / "YAF_back_neutral.wav", 410.0)
    wav(folder / "YAF_happy" / "YAF_back_fear.wav", 420.0)
    for path in sorted((folder / "YAF_Sad").glob("*.wav")):
        copy = folder / "TESS Toronto emotional speech set data" / "YAF_Sad" / path.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    return folder


def scene(name, emotions, speakers=None, first=1):
    turns = [
        {
            "utterance_id": f"{name}_u{first + i:03d}",
            "speakers": (speakers or {}).get(i, [("Monica Geller", "Joey Tribbiani")[i % 2]]),
            "transcript": f"There’s nothing to tell, {i}!",
            "tokens": [["There", "is"]],
            "emotion": emotion,
        }
        for i, emotion in enumerate(emotions)
    ]
    return {"scene_id": name, "utterances": turns}


def emorynlp(folder):
    of_parts = {
        "trn": [
            ("s01_e02", [scene("s01_e02_c01", ["Joyful", "Neutral", "Mad"], {1: ["Ross Geller", "Joey Tribbiani"]})]),
            ("s01_e03", [scene("s01_e03_c01", ["Sad", "Scared"], {0: []}, first=3)]),
        ],
        "dev": [("s01_e15", [scene("s01_e15_c01", ["Peaceful", "Powerful"])])],
        "tst": [("s01_e03", [scene("s01_e03_c02", ["Neutral", "Joyful"], {1: ["Rachel Green"]})])],
    }
    room = folder / "json"
    room.mkdir(parents=True)
    for part, episodes in of_parts.items():
        whole = {"episodes": [{"episode_id": name, "scenes": scenes} for name, scenes in episodes]}
        whole["episodes"][0]["scenes"][0]["utterances"][-1]["transcript"] = " " if part == "dev" else "Hi"
        (room / f"emotion-detection-{part}.json").write_text(json.dumps(whole))
    return folder


DIALOGUES = {
    "train": [
        ("Say , Jim , how about a few beers ? __eou__ You know that is tempting . __eou__", "0 0 "),
        ("I am mad . __eou__ Why ? __eou__ It broke . __eou__", "1 0 5 "),
        ("What a day ! __eou__ Oh ? __eou__", "6 "),
        ("Good morning , sir . __eou__ Hello . __eou__", "4 0 "),
        ("Good morning , sir . __eou__ Hello . __eou__", "4 0 "),
    ],
    "validation": [("That’s it . __eou__ Fine . __eou__", "2 3 ")],
    "test": [("Good morning sir! __eou__ Hello . __eou__", "4 4 ")],
}


def dailydialog(folder):
    for part, dialogues in DIALOGUES.items():
        room = folder / part
        room.mkdir(parents=True)
        (room / f"dialogues_{part}.txt").write_text("".join(f"{text}\n" for text, _ in dialogues))
        (room / f"dialogues_emotion_{part}.txt").write_text("".join(f"{of}\n" for _, of in dialogues))
    return folder


MOSEI = [
    ("-3g5yACwYnA", "10", "I do like it", "1.0", "Positive", "train"),
    ("-3g5yACwYnA", "2", "it’s a chair", "0.0", "Neutral", "train"),
    ("100178", "0", "", "-0.33333334", "Neutral", "train"),
    ("03bSnISJMiM", "0", "awful", "-3.0", "Negative", "valid"),
    ("1DmNV9C1hbY", "3", "fine, and good", "0.6666667", "Positive", "test"),
    ("100178", "1", "so so", "0", "Neutral", "test"),
]


def mosei_table(path, rows=MOSEI):
    head = "video_id,clip_id,text,label,label_T,label_A,label_V,annotation,mode"
    lines = [f'{video},{clip},"{text}",{score},,,,{said},{mode}' for video, clip, text, score, said, mode in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([head, *lines]) + "\n")
    return path
