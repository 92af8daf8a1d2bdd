"""Small folders as IEMOCAP and MELD are distributed, with every known trap planted in them."""

import numpy as np
from recordings import RATE, tone, write_wav


def write_film(path, seconds, pitch=None, left=60, right=200, rate=10):
    """The halves of every picture have a grey of their own; with a pitch there is sound."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as out:
        video = out.add_stream("mpeg4", rate=rate)
        video.width, video.height, video.pix_fmt = 64, 32, "yuv420p"
        audio = out.add_stream("aac", rate=RATE, layout="mono") if pitch else None
        image = np.full((32, 64, 3), left, np.uint8)
        image[:, 32:] = right
        for _ in range(max(1, round(seconds * rate))):
            out.mux(video.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        out.mux(video.encode(None))
        if audio:
            frame = av.AudioFrame.from_ndarray(tone(seconds, pitch)[None], format="fltp", layout="mono")
            frame.sample_rate, frame.pts = RATE, 0
            out.mux(audio.encode(frame))
            out.mux(audio.encode(None))


WORDS = {
    "hap": "Happiness",
    "sad": "Sadness",
    "neu": "Neutral",
    "ang": "Anger",
    "exc": "Excited",
    "fru": "Frustration",
    "fea": "Fear",
}
# Told only by checking the recordings themselves.
OF_CLIPS = {"clip-unreadable", "clip-over-long", "clip-short"}
CODES = ("hap", "sad", "neu", "ang", "exc", "fru")
VAD_BEYOND = "Ses01F_impro01_F002"  # a mean of 5.5, as a few have in the corpus; and a rater who gave a 6
EXTRA_HAPPY = "Ses01F_impro01_M002"  # xxx, in the fixture as in the corpus


def turn_lines(start, name, label, raters):
    """A turn as EmoEvaluation has it; `raters`: {"E1": "Anger; Frustration;", …}."""
    mean = "5.5000, 2.5000, nan" if name == VAD_BEYOND else "2.5000, 2.5000, 2.5000"
    lines = [f"[{start:.4f} - {start + 0.9:.4f}]\t{name}\t{label}\t[{mean}]"]
    lines += [f"C-{rater}:\t{words}\t(no (re)marks; at all)" for rater, words in raters.items()]
    second = "val 6; act 4; dom  ;" if name == VAD_BEYOND else "val 2; act 4; dom  3;"
    given = ["A-E3:\tval 3; act 1; dom  2;\t()", f"A-E4:\t{second}\t()", "A-F1:\tval 1; act 5; dom  5;\t()"]
    return [*lines, *given, ""]


def iemocap(folder, films=True):
    """Two sessions (1 and 5) of two dialogues with twelve turns each, and one of a single turn; the other three are not
    there. Without `films` the films are empty files."""
    root = folder / "IEMOCAP_full_release"
    number = 0
    for session, letter in ((1, "F"), (5, "M")):
        room = root / f"Session{session}"
        for dialogue in (f"Ses0{session}{letter}_impro01", f"Ses0{session}{letter}_script01_1"):
            evaluation = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]", ""]
            transcript = []
            for i in range(12):
                number += 1
                name, start = f"{dialogue}_{'FM'[i % 2]}{i // 2:03d}", 1.0 * i
                label, raters = CODES[i % 6], dict.fromkeys(("E1", "E2", "E3"), f"{WORDS[CODES[i % 6]]};")
                # A line of the script is the same in every session.
                sentence = f"Line {i} of the play." if "script" in dialogue else f"Said {number} times."
                seconds = 0.9
                if name == EXTRA_HAPPY:
                    label, raters = "xxx", {"E1": "Happiness;", "E2": "Excited;", "E3": "Sadness; Other;"}
                elif name == "Ses01F_impro01_F003":
                    label, raters = "fea", {"E1": "Fear;", "E2": "Fear;", "E3": "Other;"}
                elif name == "Ses01F_impro01_F001":
                    raters = {"E1": "Neutral state;", "E2": "Anger;", "E3": "", "F1": "Sadness;"}
                elif name == "Ses01F_impro01_M001":  # ang
                    raters = {"E1": "Sadness;", "E2": "Sadness;", "M1": "Anger;"}
                elif name == "Ses01F_impro01_F004":
                    sentence, seconds = "It\x92s a long one.", 4.0
                elif name == "Ses01F_impro01_M004":
                    seconds = 0.2
                evaluation += turn_lines(start, name, label, raters)
                if name != "Ses05M_impro01_M005":
                    transcript.append(f"{name} [{start:08.4f}-{start + 0.9:08.4f}]: {sentence}")
                if name != "Ses05M_impro01_F004":
                    write_wav(room / "sentences" / "wav" / dialogue / f"{name}.wav", tone(seconds, 110 + 5 * number))
            if dialogue == "Ses01F_impro01":
                evaluation += ["what is this?"]
                transcript += [
                    "M: [LAUGHTER]",
                    f"{dialogue}_MXX0 [012.0000-012.9000]: Never judged.",
                ]
            if dialogue == "Ses05M_impro01":  # a time stamp the wrong way round
                at = next(i for i, line in enumerate(evaluation) if f"{dialogue}_F005" in line)
                evaluation[at] = f"[10.9000 - 10.0000]\t{dialogue}_F005\texc\t[2.5000, 2.5000, 2.5000]"
            where = room / "dialog"
            for name, lines in (("EmoEvaluation", evaluation), ("transcriptions", transcript)):
                (where / name).mkdir(parents=True, exist_ok=True)
                text = "\n".join(lines) + "\n"
                (where / name / f"{dialogue}.txt").write_bytes(text.encode("latin-1"))  # \x92: no UTF-8
            if dialogue != "Ses05M_script01_1":
                film = where / "avi" / "DivX" / f"{dialogue}.avi"
                film.parent.mkdir(parents=True, exist_ok=True)
                if films:
                    write_film(film, 13)
                else:
                    film.touch()
    short = root / "Session5" / "dialog"
    (short / "EmoEvaluation" / "Ses05M_impro02.txt").write_text(
        "\n".join(turn_lines(0, "Ses05M_impro02_M000", "neu", {"E1": "Neutral;"}))
    )
    (short / "EmoEvaluation" / "._Ses05M_impro01.txt").write_bytes(b"\x00\x05\x16\x07")
    extra = root / "Session1" / "sentences" / "wav" / "Ses01F_impro01"
    write_wav(extra / "Ses01F_impro01_MXX0.wav", tone(0.9, 400))
    broken = root / "Session5" / "sentences" / "wav" / "Ses05M_impro01" / "Ses05M_impro01_F003.wav"
    broken.write_bytes(b"no sound at all" * 99)
    write_wav(short.parent / "sentences" / "wav" / "Ses05M_impro02" / "Ses05M_impro02_M000.wav", tone(0.9, 300))
    return root


FOLDERS = {"train": "train_splits", "dev": "dev_splits_complete", "test": "output_repeated_splits_test"}
EMOTIONS = ("neutral", "surprise", "fear", "sadness", "joy", "disgust", "anger")
HEADER = "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode,StartTime,EndTime"


def meld(folder, clips=True):
    """The dialogues that the traps are in, with their real numbers, and a few around them. Without `clips` no file
    holds a film."""
    root = folder / "MELD.Raw"
    dialogues = {
        "train": {0: 3, 1: 4, 3: 2, 59: 2, 61: 2, 125: 5, 309: 2},  # 2 and 4 to 58 are not there, nor is 60
        "dev": {0: 3, 1: 4, 49: 3, 66: 3, 110: 9},
        "test": {0: 3, 1: 4, 38: 5, 108: 2, 220: 2},
    }
    number = 0
    for part, of in dialogues.items():
        lines = [HEADER]
        room = root / "train" / FOLDERS[part] if part == "train" else root / FOLDERS[part]
        room.mkdir(parents=True)
        for dialogue, count in of.items():
            for i in range(count):
                number += 1
                utterance = i + (i > 1) * (dialogue == 1)  # 0, 1, 3, 4: utterance 2 is missing
                season = {"train": 8, "dev": 9, "test": 8}[part]
                start = f"00:{number // 60:02d}:{number % 60:02d},059"
                end = f"00:{number // 60:02d}:{number % 60:02d},959"
                emotion = EMOTIONS[number % 7]
                speaker = "Ross" if i % 2 else f"{part}-{dialogue}"
                sentence = f"Number {number}, please."
                if (dialogue, i) == (0, 0):  # the same moment in all parts, in test with another label
                    season, start, end = 7, "00:01:00,000", "00:01:01,000"
                    emotion = "joy" if part == "test" else "neutral"
                elif (part, dialogue, i) == ("train", 3, 0):
                    sentence = "It’s “typographic”…"
                elif (part, dialogue, i) == ("train", 3, 1):
                    sentence = "It\udc92s old."
                elif (part, dialogue, i) == ("dev", 1, 0):
                    sentence = "Latin\x92s."
                elif (part, dialogue, i) == ("dev", 1, 1):
                    start, end = end, start
                lines.append(
                    f'{number},"{sentence}",{speaker},{emotion},neutral,'
                    f'{dialogue},{utterance},{season},21,"{start}","{end}"'
                )
                clip = room / f"dia{dialogue}_utt{utterance}.mp4"
                name = (part, dialogue, utterance)
                if name == ("dev", 110, 7):
                    continue
                if not clips or name == ("train", 125, 3):
                    clip.write_bytes(b"not a film" * 99)
                else:
                    seconds = (
                        5.0
                        if name in (("test", 38, 4), ("test", 220, 0), ("train", 309, 0))
                        else 0.2
                        if name == ("train", 3, 0)
                        else 0.9
                    )
                    write_film(clip, seconds, 110 + 3 * number)
        table = "\n".join(lines) + "\n"
        where = root / "train" if part == "train" else root
        (where / f"{part}_sent_emo.csv").write_bytes(table.encode("utf-8", "surrogateescape"))
    for part, name in (
        ("test", "final_videos_testdia0_utt0.mp4"),
        ("dev", "dia66_utt9.mp4"),
        ("dev", "dia49_utt4.mp4"),
        ("test", "dia108_utt2.mp4"),
        ("test", "._dia0_utt0.mp4"),
    ):
        (root / FOLDERS[part] / name).write_bytes(b"extra" * 99)
    return root
