"""The bot as a model: a question is embedded, compared with the catalogue's, and answered or declined, in the graph."""

import keras
import tensorflow as tf


class Chatbot(tf.Module):
    """Answers with the catalogue's entry whose question means most nearly the same.

    A question's embedding is the mean of its tokens' states, scaled to length 1 (Reimers & Gurevych 2019,
    Sentence-BERT, section 3, https://arxiv.org/abs/1908.10084); its score with a catalogue question is their cosine.

    Args:
        encoder: `keras_attention.models.TextEncoder`, D wide.
        tokenizer: `keras_attention.text.WordPieceTokenizer`.
        questions: list of str, the M questions of the catalogue.
        answers: list of str, their answers.
        embeddings: float32 [M, D], the questions' embeddings.
        threshold: float, the score from which on a question is answered.
        fallback: str, what is said below it.
        alternatives: int, how many further questions are offered; less in a small catalogue.
    """

    def __init__(self, encoder, tokenizer, questions, answers, embeddings, threshold, fallback, alternatives=3):
        super().__init__()
        self.encoder = encoder
        self.tokenizer = tokenizer
        self.questions = tf.Variable(questions, trainable=False, name="questions")
        self.answers = tf.Variable(answers, trainable=False, name="answers")
        self.embeddings = tf.Variable(embeddings, trainable=False, name="embeddings")
        self.threshold = tf.Variable(threshold, trainable=False, dtype=tf.float32, name="threshold")
        self.fallback = fallback
        self.num_candidates = 1 + min(alternatives, len(questions) - 1)

    def __call__(self, text):
        """Answers a batch of questions.

        Args:
            text: string [B]. Any bytes: what is not UTF-8 is left out, what is too long is cut, and a text of
                which nothing is left is not answered.

        Returns:
            dict: answer string [B]; score float32 [B]; answered bool [B]; matched_question string [B], the nearest
            question of the catalogue; alternatives string [B, k], the next nearest; alternative_scores float32 [B, k].
        """
        ids = self.tokenizer(text)
        similarities = tf.matmul(embed(self.encoder, ids), self.embeddings, transpose_b=True)
        blank = tf.math.count_nonzero(ids != self.tokenizer.pad_id, axis=1) <= 2  # nothing but the start and the end
        similarities = tf.where(blank[:, tf.newaxis], 0.0, similarities)
        scores, best = tf.math.top_k(similarities, k=self.num_candidates)
        answered = tf.logical_and(scores[:, 0] >= self.threshold, tf.logical_not(blank))
        matched = tf.gather(self.questions, best)
        return {
            "answer": tf.where(answered, tf.gather(self.answers, best[:, 0]), self.fallback),
            "score": scores[:, 0],
            "answered": answered,
            "matched_question": matched[:, 0],
            "alternatives": matched[:, 1:],
            "alternative_scores": scores[:, 1:],
        }


def embed(encoder, ids):
    """Embeds texts.

    Args:
        encoder: `TextEncoder`.
        ids: int32 [B, T], the texts' tokens.

    Returns:
        float32 [B, D], each of length 1.
    """
    mean = keras.layers.GlobalAveragePooling1D()(encoder(ids))  # over real tokens only: the states carry the mask
    return tf.math.l2_normalize(mean, axis=-1)
