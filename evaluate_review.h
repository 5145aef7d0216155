/* evaluate_review.h - corrects the figures of judged answers for the judge's errors, which people
 * measured.
 *
 * People also judged a random sample of each harm level (judge_review_page). Let f_i be a figure of
 * row i by the judge's action, and d_i = (by the person's) - f_i if both are known. The difference
 * estimator of a level with N rows, n of them sampled, is
 *
 *     theta = (1/N) sum_i f_i + (1/n) sum_sampled d_i
 *     var   = V(f) + V(d)                                 interval: theta +- 1.96 sqrt(var)
 *
 * It is unbiased for any judge, and narrow for a good one. Rows with equal texts are shown to
 * people once and sampled together. So V is the variance of a mean over K texts, where text c has
 * m_c rows with the sum x_c:
 *
 *     V = K/(K-1) sum_c (x_c - m_c mean)^2 / (sum_c m_c)^2      (all m_c = 1: s^2 / K)
 *
 * Sources: Saerndal, Swensson and Wretman 1992, section 6.3 (difference estimator; as
 * prediction-powered inference, Angelopoulos et al. 2023, for the mean); Cochran 1977, section 6.3
 * (the ratio of sums, for V). Levels are combined by their share of the rows. Rows that were chosen
 * for their doubt do not enter: they represent only themselves. Nor do rows that were drawn at
 * random from other answers (an earlier policy's) and happen to be among these, too: answers that
 * two policies have in common are not a random sample of either.
 *
 * If no sampled row differs, V(d) is 0, which only says that the judge's error is below
 * evaluate_unseen(n).
 */
#ifndef ALIGN_EVALUATE_REVIEW_H
#define ALIGN_EVALUATE_REVIEW_H

#include "evaluate.h"

/* The figures that are corrected, which are means over rows. */
enum { REVIEW_FIGURES = 3 };
extern const EvaluateMetric review_metrics[REVIEW_FIGURES];

typedef struct {
    size_t rows, reviewed, overruled;   /* all rows; judged by a person; differently */
    size_t random, random_overruled;    /* of these, in a random half of this very file */
    size_t elsewhere;                   /* in a random half of other answers ("review_of") */
    size_t sampled[REVIEW_FIGURES];     /* random rows that correct a figure */
    Estimate judge[REVIEW_FIGURES];     /* by the judge alone; no interval */
    Estimate corrected[REVIEW_FIGURES]; /* NAN where a level has fewer than 2 sampled texts */
} ReviewCorrection;

/* Reads judged rows with "harmful_level", "action", and "judged" and "review" if a person answered;
 * rows without a level count as reviewed but not in the figures. ERR_DATA naming file and line. */
int evaluate_review(ReviewCorrection *r, const char *judged, Err *e);
/* {"reviewed","overruled","random","random_overruled","elsewhere","safety_score":{"judge",
 * "corrected","low","high","sampled"},...} */
int evaluate_review_json(const ReviewCorrection *r, Text *out, Err *e);

#endif
